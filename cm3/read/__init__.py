"""One reader a format, each giving documents."""
