"""Prints what an extra of the installed package asks for, to be installed without building it again: extra.py NAME"""

import sys
from importlib.metadata import requires

for requirement in requires("fastconv"):
    wanted, _, extra = requirement.partition("; extra == ")
    if extra.strip("\"'") == sys.argv[1]:
        print(wanted)
