"""Every limit on what comes from outside, in one place, each with its reason.

Sizes in bytes, times in seconds; the unit is the last word of the name. Imports nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

# -- wire ------------------------------------------------------------------------------------
PROTOCOL_VERSION: Final = 1
#: Payload of an ordinary frame. Large enough to keep per-frame cost small, small enough that a
#: frame of another job on the same link never waits long.
FRAME_MAX_BYTES: Final = 256 * 1024
#: Payload of a frame that carries a job (SUBMIT, START): blob + credential + header.
JOB_FRAME_MAX_BYTES: Final = 5 * 1024 * 1024
#: What a peer may send before it has authenticated (TLS handshake done and HELLO seen).
UNAUTHENTICATED_MAX_BYTES: Final = 64 * 1024
#: And how long it may take for that: a fully loaded node needs its time for a handshake.
UNAUTHENTICATED_MAX_S: Final = 30.0
#: One read of a process's output, and so the usual size of an OUTPUT frame's data.
READ_CHUNK_BYTES: Final = 64 * 1024
#: Ranges of ranks in one frame (8 bytes each: half of FRAME_MAX_BYTES).
RANGES_MAX: Final = 16 * 1024
#: Text that explains an outcome or a refusal.
TEXT_MAX_BYTES: Final = 2048

# -- job -------------------------------------------------------------------------------------
#: Processes of one job. The original stopped at 16384.
RANKS_MAX: Final = 65_536
#: A node's name: DNS allows 253; longer ones are somebody's mistake.
NAME_MAX_BYTES: Final = 255
#: ``[ip6%interface]:port``: 45 + 16 characters and what stands around them.
ADDRESS_MAX_BYTES: Final = 72
#: Addresses of one node that are tried in turn: two families, old and new, and some to spare.
ADDRESSES_MAX: Final = 8
#: Addresses of all nodes of a job together; of a job with more, each node keeps fewer.
JOB_ADDRESSES_BYTES: Final = 2 * 1024 * 1024
#: argv and environment together. Linux itself refuses more than 2 MiB on a default stack
#: (a quarter of RLIMIT_STACK) and the node adds variables of its own.
ARGV_ENV_MAX_BYTES: Final = 1024 * 1024
#: One argument or variable: the kernel's MAX_ARG_STRLEN, with its terminating NUL.
ARG_MAX_BYTES: Final = 128 * 1024 - 1
#: The whole job blob, names and addresses of all nodes included.
JOB_BLOB_MAX_BYTES: Final = 4 * 1024 * 1024
#: The program's path and the working directory: the kernel's PATH_MAX, without its NUL.
PATH_MAX_BYTES: Final = 4095
FANOUT_MIN: Final = 1
FANOUT_MAX: Final = 1024
#: 8 to 32 are equal within noise (docs/decisions/0006-tree.md).
FANOUT_DEFAULT: Final = 16

# -- flow ------------------------------------------------------------------------------------
#: All unacknowledged output of a job together; divided among its (rank, stream)s.
JOB_WINDOW_BYTES: Final = 64 * 1024 * 1024
#: Bounds of the share that one (rank, stream) gets.
WINDOW_MIN_BYTES: Final = 16 * 1024
WINDOW_MAX_BYTES: Final = 1024 * 1024
#: stdin that a client may have under way, not yet taken by every process.
STDIN_WINDOW_BYTES: Final = 1024 * 1024
#: stdin that is kept in a file for the batches and attempts after the first.
STDIN_KEPT_MAX_BYTES: Final = 64 * 1024 * 1024

# -- credentials -----------------------------------------------------------------------------
RSA_MIN_BITS: Final = 2048
RSA_MAX_BITS: Final = 16384
CREDENTIAL_MAX_BYTES: Final = 8 * 1024
CREDENTIAL_TTL_S: Final = 60.0
#: A node refuses credentials that claim to live longer, whoever signed them.
CREDENTIAL_TTL_MAX_S: Final = 300.0
CLOCK_SKEW_S: Final = 30.0
#: Job ids that one spawner remembers until they expire; fails closed when full.
REPLAY_ENTRIES_MAX: Final = 65_536
REPLAY_ENTRIES_PER_UID_MAX: Final = 16_384
KEY_FILE_MAX_BYTES: Final = 64 * 1024

# -- time ------------------------------------------------------------------------------------
CONNECT_TIMEOUT_S: Final = 5.0
#: The next address of a node is tried this long after the one before (RFC 8305: Connection Attempt Delay).
NEXT_ADDRESS_S: Final = 0.25
#: Names that the resolver has not answered by then do not resolve: where a name server does not answer, each
#: costs 10 s and more.
RESOLVE_MAX_S: Final = 30.0
#: TLS and Hello of a link whose TCP connection stands: a fully loaded node may take long.
HANDSHAKE_TIMEOUT_S: Final = 30.0
#: A child that has not answered after this long does not hold its subtree (DESIGN: hedged dialling).
HEDGE_MAX_S: Final = 0.25
HEDGE_MIN_S: Final = 0.05
#: The same for a child whose machine has answered (TCP): it is loaded rather than dead.
HEDGE_REACHED_S: Final = 5.0
#: How long a node holds reports for its parent so that equal ones become one frame.
GATHER_S: Final = 0.005
#: And longer with more nodes below it, up to the maximum: nobody sees 50 ms.
GATHER_PER_RANK_S: Final = 0.0005
GATHER_MAX_S: Final = 0.05
#: And how much output it holds at most.
GATHER_BYTES: Final = 64 * 1024
#: A process tells how much stdin it took in steps of this many bytes.
STDIN_STEP_BYTES: Final = 128 * 1024
HEARTBEAT_S: Final = 3.0
LOST_AFTER_S: Final = 15.0
#: A subtree without its parent waits this long to be taken over before it ends its processes.
ORPHAN_GRACE_S: Final = 20.0
#: What a process leaves behind may hold its output this long before it is not waited for any more;
#: where the policy ends what is left, it may go on this long.
LINGER_S: Final = 2.0
#: From SIGHUP+SIGTERM to SIGKILL.
KILL_GRACE_S: Final = 5.0
#: A deadline that is overdue by more was missed by this process (suspended, stopped, starved), not by a peer.
LATE_S: Final = 1.0
#: Then it is due this much later: first all that came meanwhile is read.
SETTLE_S: Final = 1.0
LINK_IDLE_S: Final = 300.0

# -- authd -----------------------------------------------------------------------------------
AUTHD_IO_DEADLINE_S: Final = 2.0
AUTHD_CONNECTIONS_MAX: Final = 1024
#: Credentials per second that one user may ask for (burst: ten times as many).
AUTHD_RATE_PER_UID: Final = 200.0
CERTIFICATE_TTL_S: Final = 24 * 3600.0

# -- daemon ----------------------------------------------------------------------------------
DEFAULT_PORT: Final = 2875
CLIENTS_MAX: Final = 512
#: Of one user, so that nobody can take them all.
CLIENTS_PER_UID_MAX: Final = 384
LINKS_UNAUTHENTICATED_MAX: Final = 256
LINKS_UNAUTHENTICATED_PER_SOURCE_MAX: Final = 64
JOBS_MAX: Final = 4096
JOBS_PER_UID_MAX: Final = 1024
#: Launches of one user on one node that the relay has asked for and the spawner has not answered; the
#: others wait for their turn in the relay. What a stopped helper may hold in the spawner follows from it.
LAUNCHES_UNDER_WAY_MAX: Final = 64
CONFIG_MAX_BYTES: Final = 1024 * 1024

# -- choosing nodes --------------------------------------------------------------------------
#: A node list, and what a command says of a group: RANKS_MAX names of NAME_MAX_BYTES fit.
NODE_LIST_MAX_BYTES: Final = 17 * 1024 * 1024
#: Names that one node set may write out on its way: operators need some more than remain.
NODESET_NAMES_MAX: Final = 4 * RANKS_MAX
#: Wildcards of one node set: each is compared with every node.
NODESET_MASKS_MAX: Final = 100
#: Groups in groups.
GROUP_DEPTH_MAX: Final = 32
#: A command of a group source: a busy scheduler takes its time.
GROUP_UPCALL_S: Final = 20.0
GMOND_PORT: Final = 8649
GMOND_SERVERS_MAX: Final = 16
#: Looking up a gmond's name and connecting.
GMOND_CONNECT_S: Final = 2.0
#: Its whole answer, read and understood.
GMOND_ANSWER_S: Final = 10.0
#: 10 KiB for a host with its usual metrics: more than 12,000 hosts.
GMOND_XML_MAX_BYTES: Final = 128 * 1024 * 1024
GMOND_DEPTH_MAX: Final = 32
#: Also of what stands between two tags. Ganglia's own have some hundred bytes.
GMOND_TAG_MAX_BYTES: Final = 1024 * 1024
#: How long --skip-down leaves out a node that could not be reached, and how many it remembers.
DOWN_FORGET_S: Final = 600.0
DOWN_NODES_MAX: Final = 4096

# -- this machine ----------------------------------------------------------------------------
#: A Unix socket's path: what the kernel takes (sun_path, without its NUL).
SOCKET_PATH_MAX_BYTES: Final = 107

# -- files -----------------------------------------------------------------------------------
#: Contents are hashed and kept sparse in blocks of this size.
ARCHIVE_BLOCK_BYTES: Final = 64 * 1024
#: Contents in one record of an archive stream, and one read of a file: larger is no faster.
ARCHIVE_DATA_MAX_BYTES: Final = 1024 * 1024
#: A name in a path; no Linux file system has longer ones.
ARCHIVE_NAME_MAX_BYTES: Final = 255
#: A path in an archive stream: four times what one system call takes.
ARCHIVE_PATH_MAX_BYTES: Final = 16 * 1024
#: Directories in directories; each is an open descriptor, of which a process usually has 1024.
ARCHIVE_DEPTH_MAX: Final = 256
#: What a symbolic link may hold: the kernel's PATH_MAX, without its NUL.
ARCHIVE_TARGET_MAX_BYTES: Final = 4095
#: Memory that a compressed stream may ask of its reader; zstd's own levels up to 19 need no more.
ARCHIVE_WINDOW_MAX_BYTES: Final = 8 * 1024 * 1024
#: Sentences of one receiver; a full disk would fill 10,000 lines.
ARCHIVE_SAID_MAX: Final = 50


def window_bytes(ranks: int) -> int:
    """Return the window of one (rank, stream) in a job of ``ranks`` processes.

    So that JOB_WINDOW_BYTES bounds what any relay or client may have to hold for the job
    (twice that with both streams busy), but each stream keeps enough to move.
    """
    return max(WINDOW_MIN_BYTES, min(WINDOW_MAX_BYTES, JOB_WINDOW_BYTES // max(1, ranks)))
