"""``python -m r2u_tasks.cli``."""

import os

from r2u_tasks.cli.main import main

if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
