"""python scripts/report.py ...; see python scripts/report.py --help. Installed, it is gan-report."""

from gan_lightning.commands import gan_report

if __name__ == "__main__":
    gan_report()
