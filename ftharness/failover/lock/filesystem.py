"""On which filesystem a file lies: a flock excludes the processes of one kernel."""

import os
from pathlib import Path

#: Filesystems whose files other machines may open as well. There a flock is kept by a server, or by nobody: it can be lost
#: while its holder runs, and a machine that is cut off keeps it.
_NETWORK = frozenset(
    """
    9p afs beegfs ceph cifs coda davfs gfs gfs2 glusterfs gpfs lustre ncpfs nfs nfs4 ocfs2 orangefs pvfs2 smb3 smbfs
    fuse.afs fuse.alluxio-fuse fuse.blobfuse fuse.blobfuse2 fuse.ceph fuse.cephfs fuse.curvefs fuse.davfs fuse.gcsfuse
    fuse.glusterfs fuse.goofys fuse.juicefs fuse.mfs fuse.moosefs fuse.mount-s3 fuse.rclone fuse.s3fs fuse.sshfs
    """.split()  # noqa: SIM905 - a list of words reads as one
)
_MOUNTS = Path("/proc/self/mountinfo")


def network_filesystem(folder: Path) -> str:
    """The type of the network filesystem that a folder lies on; "" where it is a local one, or the system does not tell."""
    try:
        mounts = _MOUNTS.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    real = os.path.realpath(folder)
    best, kind = "", ""
    for mount in mounts:
        before, _, after = mount.partition(" - ")
        point = before.split()[4].encode().decode("unicode_escape")  # a blank is written \040
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):  # of two on one point the later one covers the earlier
            best, kind = point, after.split()[0]
    return kind if kind in _NETWORK else ""
