"""From raw videos and published data sets to clips on disk."""
