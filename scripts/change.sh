#!/bin/sh
# The change that the demo saves, made inside a container or a chroot: what installing and editing does.
set -eu
mkdir -p /opt/app
seq 1 20000 >/opt/app/numbers
echo 'Saved by Headstart.' >/etc/motd
ln -sf numbers /opt/app/current
ln /opt/app/numbers /opt/app/numbers.link
rm -rf /usr/share/doc/apt /var/log/dpkg.log
mv /etc/issue /etc/issue.old
chmod 0700 /mnt
echo '# edited' >>/etc/bash.bashrc
