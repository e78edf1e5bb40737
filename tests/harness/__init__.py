"""What the tests of whole clusters share: clusters, processes, hostile peers, notebooks."""
