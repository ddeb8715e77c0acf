"""What is far away: downloads, buckets, archives and ModelArts jobs."""
