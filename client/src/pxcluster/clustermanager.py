"""All clusters of a user, by name."""

from __future__ import annotations

import glob
import logging
import os
from typing import Any

from . import connection
from .cluster import Cluster
from .error import VersionMismatch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class ClusterManager:
    """Clusters by key: ``"profile:cluster_id"``, where the profile is ``default`` unless a Cluster has another."""

    def __init__(self, *, log: logging.Logger | None = None, **ignored: Any) -> None:
        #: The clusters that this object has found or made.
        self.clusters: dict[str, Cluster] = {}
        self.log = log or logging.getLogger(__name__)

    @staticmethod
    def _cluster_key(cluster: Cluster) -> str:
        return f"{cluster.profile_dir or cluster.profile or 'default'}:{cluster.cluster_id}"

    def load_clusters(
        self,
        *,
        profile_dirs: Sequence[str] | None = None,
        profile_dir: str | None = None,
        profiles: Sequence[str] | None = None,
        profile: str | None = None,
        init_default_clusters: bool = False,
        **kwargs: Any,
    ) -> dict[str, Cluster]:
        """Find all clusters that run, whoever has started them, and forget those that have ended; all by key.

        They are looked for in ``$PXCLUSTER_DIR``: profiles are accepted and choose nothing. `init_default_clusters`:
        where none is running, a Cluster that can be started.
        """
        for key, cluster in list(self.clusters.items()):
            if cluster.controller is not None and not cluster._is_running():
                self.log.info(f"Removing stopped cluster {key}")
                del self.clusters[key]
        known = {cluster._connection_file for cluster in self.clusters.values() if cluster._is_running()}
        for path in sorted(glob.glob(os.path.join(glob.escape(connection.directory()), "*", "connection.json"))):
            if os.path.abspath(path) in known:
                continue
            try:
                cluster = Cluster.from_file(path)
            except FileNotFoundError:
                continue  # it has ended, and its file is left
            except (OSError, ValueError, VersionMismatch) as problem:
                self.log.warning(f"Failed to load cluster from {path}: {problem}")
                continue
            self.clusters[self._cluster_key(cluster)] = cluster
        if init_default_clusters and not self.clusters:
            cluster = Cluster(cluster_id="")
            self.clusters[self._cluster_key(cluster)] = cluster
        return self.clusters

    def new_cluster(self, **kwargs: Any) -> tuple[str, Cluster]:
        """Make a Cluster, which does not run yet; `kwargs` are its. Its key and it. KeyError: there is one already."""
        cluster = Cluster(**kwargs)
        key = self._cluster_key(cluster)
        if key in self.clusters:
            raise KeyError(f"Cluster {key} already exists!")
        self.clusters[key] = cluster
        return key, cluster

    def get_cluster(self, cluster_id: str) -> Cluster:
        """The Cluster with this key. KeyError."""
        return self.clusters[cluster_id]

    def remove_cluster(self, cluster_id: str) -> None:
        """Forget the Cluster with this key; who wants it stopped stops it. KeyError."""
        del self.clusters[cluster_id]
