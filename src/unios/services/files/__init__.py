"""The file service: one tree of files, served to programs by way of FUSE. service.py is its main."""
