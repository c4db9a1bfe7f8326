# Lays out what a node of the lab's cluster sees: the machine's programs, but a disk, an /etc and a
# /run of its own. Run inside the node's mount namespace; $1 is the disk, which outlives a reboot.
set -eu
disk=$1
mkdir -p "$disk/etc" "$disk/etc-work" "$disk/lib" "$disk/log" "$disk/opt/cni/bin" "$disk/values"

mount -t overlay etc /etc -o "lowerdir=/etc,upperdir=$disk/etc,workdir=$disk/etc-work"
if [ ! -e "$disk/laid-out" ]; then
  # Of the machine's own settings, those of its container runtimes are not this node's.
  rm -rf /etc/cni /etc/containerd /etc/kubernetes /etc/weft
  mkdir -p /etc/cni/net.d /etc/kubernetes/manifests
  rm -f /etc/resolv.conf
  # Nobody answers there (RFC 5737): only the cluster's own names are known.
  echo 'nameserver 192.0.2.53' > /etc/resolv.conf
  touch "$disk/laid-out"
fi
mount --bind "$disk/lib" /var/lib
mount --bind "$disk/log" /var/log
mount --bind "$disk/opt" /opt

# A kubelet sets these of the whole machine, unless they are as it wants them: it is shown that they are.
while read -r setting value; do
  file=$disk/values/$(echo "$setting" | tr / .)
  echo "$value" > "$file"
  mount --bind "$file" "/proc/sys/$setting"
done <<'VALUES'
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
VALUES

# Last, since the disk itself lies below the /run that this hides.
mount -t tmpfs -o mode=0755 run /run
mkdir -p /run/netns /run/lock /run/weft
# What is mounted on the node is seen in its containers that ask for it, and on no other node.
mount --make-rshared /
