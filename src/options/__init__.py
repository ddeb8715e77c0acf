"""What `src.config` puts options together from: command line, values, and other systems' options files."""
