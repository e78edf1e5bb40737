import importlib.util
import json
import os
import sys
import sysconfig


def libpython():
    get = sysconfig.get_config_var
    names = [
        n
        for n in (get("INSTSONAME"), get("LDLIBRARY"), "libpython%d.%d.so.1.0" % sys.version_info[:2])
        if n and ".so" in n
    ]
    folders = [
        get("LIBDIR"),
        os.path.join(get("LIBDIR") or "", get("MULTIARCH") or ""),
        os.path.join(sys.base_prefix, "lib"),
    ]
    for folder in folders:
        for name in names:
            path = os.path.join(folder or "", name)
            if folder and os.path.exists(path):
                return os.path.realpath(path)
    return None


def package():
    try:
        return importlib.util.find_spec("pxcluster._engine._pxengine") is not None
    except ImportError:
        return False


print(
    json.dumps(
        {
            "executable": sys.executable,
            "implementation": sys.implementation.name,
            "version": sys.version_info[:3],
            "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
            "libpython": libpython(),
            "package": package(),
        }
    )
)
