"""`python -m tierd.cli`, for where the `tierd` script is not on the path."""

from tierd.cli.main import app

if __name__ == "__main__":
    app(prog_name="tierd")
