#!/bin/sh
# Image build, stage `runtime`: installs the packages that the first stage fetched (so no network and no
# settings are needed here), and takes away what an agent never uses.
set -eu

DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends /packages/*.deb
rm -rf /packages /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/log/*
rm -rf /usr/share/doc/* /usr/share/man/* /usr/share/locale/* /usr/share/info/*
# Nobody in there may become root who is not.
find / -xdev -perm /6000 -type f -exec chmod a-s {} +
