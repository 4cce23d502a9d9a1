"""Startup of the tutorials' kernels: ``%%bash`` prints both streams in order, as a terminal does.

That of IPython prints them one after the other, in pieces of 100 characters.
"""

import subprocess

from IPython.core.getipython import get_ipython


def bash(_: str, commands: str) -> None:
    """Runs commands and prints what they print; raises CalledProcessError if one fails."""
    done = subprocess.run(
        ["bash", "-e", "-c", commands], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    print(done.stdout, end="")
    done.check_returncode()


get_ipython().register_magic_function(bash, "cell")
