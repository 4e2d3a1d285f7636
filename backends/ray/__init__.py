"""Ray: calls on a Ray cluster, or on one made for the occasion."""
