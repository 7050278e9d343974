import sys

from dapt.cli import main

sys.exit(main())
