"""Single stages without a launcher: `python -m rnet train|attack|fingerprint|verify [overrides]`."""

from rnet.command.app import make_app

if __name__ == "__main__":
    make_app(completion=False)(prog_name="python -m rnet")
