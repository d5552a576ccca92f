"""python scripts/evaluate.py ...; see python scripts/evaluate.py --help. Installed, it is gan-evaluate."""

from gan_lightning.commands import gan_evaluate

if __name__ == "__main__":
    gan_evaluate()
