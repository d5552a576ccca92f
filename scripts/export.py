"""python scripts/export.py ...; see python scripts/export.py --help. Installed, it is gan-export."""

from gan_lightning.commands import gan_export

if __name__ == "__main__":
    gan_export()
