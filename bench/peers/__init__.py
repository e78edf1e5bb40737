"""The systems that pxcluster is measured beside."""
