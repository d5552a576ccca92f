"""Find the images in a folder: links are followed, and anything but files and folders is ignored."""

import os
import stat
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from PIL import features

from gan_lightning.data.decode import named
from gan_lightning.errors import UsageError

IMAGE_ENDINGS = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".j2k", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".tga"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
    *([".avif"] if "avif" in features.modules and features.check_module("avif") else []),  # not every Pillow
}
OTHER_ENDINGS = {
    *(".avif", ".heic", ".heif", ".jxl", ".jxr", ".svg", ".svgz", ".eps", ".psd", ".xcf", ".ico", ".pcx", ".dds"),
    *(".exr", ".hdr", ".pfm", ".fits", ".dcm", ".qoi", ".sgi", ".xbm", ".xpm", ".apng", ".mpo", ".jpx", ".jpf", ".j2c"),
    *(".dng", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"),
} - IMAGE_ENDINGS  # image formats that are not read
MAC = "__MACOSX"  # macOS adds this folder to zip files; its files are named like the images


@dataclass
class Listing:
    """The images in a folder, and the skipped files that look like images, by kind."""

    files: list[Path] = field(default_factory=list)
    others: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))

    def passed_over(self, folder: Path) -> str:
        """One line that counts the skipped files; empty if there are none."""
        if not self.others:
            return ""
        counts = ", ".join(f"{len(paths)} {kind} ({named(paths[0].name)})" for kind, paths in self.others.items())
        return f"Skipped in {named(folder)}: {counts}; the first of each kind is named."


def list_images(root: Path) -> Listing:
    """List the images in a folder and its subfolders, sorted by path.

    Raises:
        UsageError: a folder cannot be read.
    """
    listing = Listing()
    _list(root, [], set(), listing)
    listing.files.sort()
    listing.others = {kind: sorted(paths) for kind, paths in sorted(listing.others.items())}
    return listing


def _list(folder: Path, around: list[tuple[int, int]], seen: set[tuple[int, int, str]], listing: Listing) -> bool:
    """Add the contents of a folder inside the folders ``around``; return whether it has an image."""
    found = False
    try:
        here = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise UsageError(f"{named(folder)} cannot be read ({error.strerror}): change its permissions.") from error
    identity = here.st_dev, here.st_ino
    if identity in around:
        listing.others["links to a parent folder"].append(folder)
        return True
    if (*identity, folder.name) in seen:  # its images are already listed under this name, which is their class
        return True
    seen.add((*identity, folder.name))
    for entry in entries:
        path = folder / entry.name
        kind = _kind(path)
        if kind == "folder":
            found |= _list(path, [*around, identity], seen, listing)
        elif kind == "image":
            found = True
            listing.files.append(path)
        elif kind:
            listing.others[kind].append(path)
    if around and not found:
        listing.others["folders without an image"].append(folder)
    return found


def _kind(path: Path) -> str:
    """folder, image, the kind of a file that looks like an image but is not read, or empty for other files."""
    try:
        mode = path.stat().st_mode
    except OSError:  # a broken link or a link to itself
        mode = 0
    ending = path.suffix.lower()
    if not stat.S_ISDIR(mode) and ending not in IMAGE_ENDINGS | OTHER_ENDINGS:
        return ""
    if path.name.startswith(".") or path.name == MAC:
        return "hidden files or folders"
    if stat.S_ISDIR(mode):
        return "folder"
    if ending in OTHER_ENDINGS and stat.S_ISREG(mode):
        return "images in formats that are not read"
    return "image" if stat.S_ISREG(mode) else "pipes, sockets, devices" if mode else "dead links"
