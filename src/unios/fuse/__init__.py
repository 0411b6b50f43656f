"""The FUSE protocol as Linux speaks it on /dev/fuse, without a library: requests are read, answers and notices made, descriptors mounted and handed on.

Decision 0058 says why: no binding hands over a live descriptor, and this is several times as fast as those that there are. Nothing here knows of files of
unios: services/files does. Source of all layouts: include/uapi/linux/fuse.h, protocol 7.36 to 7.45.
"""
