"""python scripts/sample.py ...; see python scripts/sample.py --help. Installed, it is gan-sample."""

from gan_lightning.commands import gan_sample

if __name__ == "__main__":
    gan_sample()
