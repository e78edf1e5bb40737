"""Asked after rank-engine's probe.py, of any Python: prints what is installed there as a second line of JSON."""

import json
import sys


def version(name):
    """The version of a package, or None."""
    try:
        from importlib.metadata import version

        return version(name)
    except Exception:
        return None


def pxcluster():
    """The version of the package as it is imported, or why it is not."""
    try:
        import pxcluster

        return {"version": pxcluster.__version__, "failure": None}
    except Exception as error:
        return {"version": None, "failure": type(error).__name__ + ": " + str(error)}


print(
    json.dumps(
        {
            "prefix": sys.prefix,
            "pxcluster": pxcluster(),
            "IPython": version("ipython"),
            "cloudpickle": version("cloudpickle"),
            "numpy": version("numpy"),
        }
    )
)
