"""Train a GAN: python train.py model=mlp data=mnist; see python train.py --help. Installed, it is gan-train."""

from gan_lightning.commands import gan_train

if __name__ == "__main__":
    gan_train()
