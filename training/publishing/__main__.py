"""`python -m training.publishing`: see `training.publishing.publish`."""

import sys

from training.publishing.publish import main

sys.exit(main())
