from densessl.__main__ import run
from densessl.commands.report import main

if __name__ == "__main__":
    raise SystemExit(run(main))
