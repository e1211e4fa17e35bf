"""What `egress.yaml` says, read and checked. Needs no other package of this image: the command line reads it, too."""
