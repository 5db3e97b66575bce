"""``python -m lmms_eval_grpc`` is ``lmms-eval-grpc``."""

import sys

from lmms_eval_grpc.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
