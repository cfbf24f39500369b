from densessl.__main__ import run
from densessl.commands.visualize import main

if __name__ == "__main__":
    raise SystemExit(run(main))
