"""Every limit on input from outside, in one place, each with its reason.

Sizes in bytes, times in seconds; the unit is the last word of the name. Imports nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

# -- wire ------------------------------------------------------------------------------------
PROTOCOL_VERSION: Final = 2
#: The oldest version that is still spoken, so that nodes can be upgraded one after another.
PROTOCOL_OLDEST: Final = 1
#: Payload of an ordinary frame. Large enough to keep per-frame cost small, small enough that a
#: frame of another job on the same link never waits long.
FRAME_MAX_BYTES: Final = 256 * 1024
#: Payload of a frame that carries a job (SUBMIT, START): blob + credential + header.
JOB_FRAME_MAX_BYTES: Final = 5 * 1024 * 1024
#: What a peer may send before it has authenticated (TLS handshake done and HELLO seen).
UNAUTHENTICATED_MAX_BYTES: Final = 64 * 1024
#: Certificates that a peer may show: OpenSSL's own limit is 100 KiB, and before its releases of 29 September
#: 2026 a certificate of 78 KiB cost 880 MiB and a minute (record 28). A leaf and a node's own
#: certificate with 256 names of 40 characters each fit.
CERTIFICATES_MAX_BYTES: Final = 24 * 1024
#: The time that a peer may take to authenticate: a handshake is slow on a fully loaded node.
UNAUTHENTICATED_MAX_S: Final = 30.0
#: One read of a process's output, and therefore the usual size of an OUTPUT frame's data.
READ_CHUNK_BYTES: Final = 64 * 1024
#: Ranges of ranks in one frame (8 bytes each: half of FRAME_MAX_BYTES).
RANGES_MAX: Final = 16 * 1024
#: Text that explains an outcome or a refusal.
TEXT_MAX_BYTES: Final = 2048

# -- job -------------------------------------------------------------------------------------
#: Processes of one job. The original stopped at 16384.
RANKS_MAX: Final = 65_536
#: A node's name: DNS allows 253 bytes; a longer name is a mistake.
NAME_MAX_BYTES: Final = 255
#: ``[ip6%interface]:port``: 45 + 16 characters, punctuation and the port.
ADDRESS_MAX_BYTES: Final = 72
#: Addresses of one node that are tried in turn: old and new ones of two families, and some more.
ADDRESSES_MAX: Final = 8
#: Addresses of all nodes of a job together; of a job with more, each node keeps fewer.
JOB_ADDRESSES_BYTES: Final = 2 * 1024 * 1024
#: argv and environment together. Linux itself refuses more than 2 MiB on a default stack (a quarter of
#: RLIMIT_STACK) and the node adds its own variables.
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
#: All unacknowledged output of a job together; divided among its (rank, stream) pairs.
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
#: A node refuses credentials with a longer validity, whoever signed them.
CREDENTIAL_TTL_MAX_S: Final = 300.0
CLOCK_SKEW_S: Final = 30.0
#: (job id, rank)s of all ordinary users that one spawner remembers until they expire; fails closed when full.
REPLAY_ENTRIES_MAX: Final = 65_536
KEY_FILE_MAX_BYTES: Final = 64 * 1024

# -- time ------------------------------------------------------------------------------------
CONNECT_TIMEOUT_S: Final = 5.0
#: The next address of a node is tried this long after the one before (RFC 8305: Connection Attempt Delay).
NEXT_ADDRESS_S: Final = 0.25
#: Names without an answer by then do not resolve: if a name server does not answer, each name takes 10 s and
#: more.
RESOLVE_MAX_S: Final = 30.0
#: TLS and Hello of a link, after its TCP connection: a fully loaded node may need this long.
HANDSHAKE_TIMEOUT_S: Final = 30.0
#: A child that has not answered after this time does not hold its subtree (docs/protocol.md, Start).
HEDGE_MAX_S: Final = 0.25
HEDGE_MIN_S: Final = 0.05
#: The same for a child whose machine has answered (TCP): it is loaded rather than dead.
HEDGE_REACHED_S: Final = 5.0
#: How long a node holds reports for its parent so that equal ones become one frame.
GATHER_S: Final = 0.005
#: Longer with more nodes below it, up to the maximum: users do not notice 50 ms.
GATHER_PER_RANK_S: Final = 0.0005
GATHER_MAX_S: Final = 0.05
#: Most output that it holds.
GATHER_BYTES: Final = 64 * 1024
#: A node reports how much stdin its process took in steps of this many bytes.
STDIN_STEP_BYTES: Final = 128 * 1024
HEARTBEAT_S: Final = 3.0
#: A peer from which nothing has come for so long is reported as not responding; with other settings the same
#: share of lost_after_s, and at least two heartbeats.
NOT_RESPONDING_S: Final = 6.0
LOST_AFTER_S: Final = 15.0
#: A subtree without a parent waits this long for a takeover before it ends its processes.
ORPHAN_GRACE_S: Final = 20.0
#: After a child said that it has another parent, that parent, or another one of this node, takes over in this
#: time: a node without a parent has noticed that, and has waited for one.
TAKEN_S: Final = LOST_AFTER_S + ORPHAN_GRACE_S
#: Output of a rank that does not fit together is requested again so often at once, and then once in so long.
RESENDS_MAX: Final = 32
RESEND_EVERY_S: Final = 5.0
#: Leftovers of a process may hold its output this long before they are no longer waited for; where the policy
#: ends leftovers, they may run this long.
LINGER_S: Final = 2.0
#: PAM's modules may ask servers that do not answer: the account's check and the session's start together.
PAM_S: Final = 30.0
#: From SIGHUP+SIGTERM to SIGKILL.
KILL_GRACE_S: Final = 5.0
#: The longest such time that a job may ask for: gexecd waits for it when it ends.
KILL_GRACE_MAX_S: Final = 60.0
#: If a deadline is overdue by more, this process missed it (suspended, stopped, starved), not a peer.
LATE_S: Final = 1.0
#: Then the deadline is delayed by this much, so that what arrived during the pause is read first.
SETTLE_S: Final = 1.0
LINK_IDLE_S: Final = 300.0
#: In a job with a stall time, a lost child that was silent is asked again for so long: it has had
#: LOST_AFTER_S already, and the others wait for it with their stdin.
ASK_SILENT_S: Final = 1.0
#: ensync gives up a node whose receiver makes no progress for this long, without --stall.
STALL_S: Final = 30.0
#: Bounds of that time in a job: progress is measured once a second.
STALL_MIN_S: Final = 1.0
STALL_MAX_S: Final = 24 * 3600.0

# -- authd -----------------------------------------------------------------------------------
AUTHD_IO_DEADLINE_S: Final = 2.0
#: Connections of all ordinary users; one user alone gets half, and root has a reserve (``security.quota``).
AUTHD_CONNECTIONS_MAX: Final = 1024
#: Credentials per second for one user (burst: ten times as many).
AUTHD_RATE_PER_UID: Final = 200.0
CERTIFICATE_TTL_S: Final = 24 * 3600.0

# -- daemon ----------------------------------------------------------------------------------
DEFAULT_PORT: Final = 2875
#: Clients of all ordinary users; one user alone gets half.
CLIENTS_MAX: Final = 768
#: Submissions of ordinary users that have begun to arrive and are not complete.
SUBMISSIONS_MAX_BYTES: Final = 128 * 1024 * 1024
#: Output that a node may have to keep for jobs of ordinary users: two windows for each of their processes.
OUTPUT_MAX_BYTES: Final = 4 * 1024 * 1024 * 1024
#: Output that the clients of ordinary users may leave unread at their gexecd.
UNREAD_MAX_BYTES: Final = 2 * 1024 * 1024 * 1024
#: Addresses that one node dials at a time for ordinary users, if there are descriptors: more would keep its
#: relay so busy that others notice.
DIALS_MAX: Final = 2048
#: Links that one node has dialled for ordinary users, if there are descriptors: one user alone has some more
#: than a job with the largest fan-out needs.
LINKS_DIALLED_MAX: Final = 3072
#: Links that one node has accepted. One peer alone may have half: more than all users of its host can make it
#: dial, so that none of them keeps the others from this node.
LINKS_ACCEPTED_MAX: Final = 7168
#: Of what other nodes have begun to send, beyond one ordinary frame of each.
ARRIVING_MAX_BYTES: Final = 128 * 1024 * 1024
#: Descriptors of the relay and of the spawner, if the hard limit allows; tasks keep gexecd's own limit.
DESCRIPTORS_MAX: Final = 65_536
LINKS_UNAUTHENTICATED_MAX: Final = 256
LINKS_UNAUTHENTICATED_PER_SOURCE_MAX: Final = 64
#: Ranks of jobs of all ordinary users on one node; one user alone gets half (``security.quota``).
JOBS_MAX: Final = 8192
#: Relays of its node that one process may outlive (docs/decisions/0032-killed-relays.md).
LIVES_MAX: Final = 15
JOBS_PER_UID_MAX: Final = 1024
#: Launches of one user on one node that the relay has requested and the spawner has not answered; the others
#: wait in the relay. This also limits what a stopped helper can hold in the spawner.
LAUNCHES_UNDER_WAY_MAX: Final = 64
CONFIG_MAX_BYTES: Final = 1024 * 1024

# -- audit log -------------------------------------------------------------------------------
#: Lines about refusals that one source (an address, a user, the relay) causes: at once, and per second then.
AUDIT_SOURCE_BURST: Final = 20
AUDIT_SOURCE_PER_S: Final = 1.0
#: All sources together, because there may be many addresses: at most a few hundred MB a day.
AUDIT_BURST: Final = 200
AUDIT_PER_S: Final = 5.0
#: After this time one line for each source reports how many lines were left out, for so many sources.
AUDIT_PERIOD_S: Final = 10.0
AUDIT_SOURCES_MAX: Final = 16
#: The smallest audit_max_bytes: a file has room for the longest line.
AUDIT_FILE_MIN_BYTES: Final = 1024 * 1024

# -- choosing nodes --------------------------------------------------------------------------
#: A node list, or the output of a group's command: RANKS_MAX names of NAME_MAX_BYTES fit.
NODE_LIST_MAX_BYTES: Final = 17 * 1024 * 1024
#: Names to which one node set may expand while it is evaluated: operators need more than those that remain.
NODESET_NAMES_MAX: Final = 4 * RANKS_MAX
#: Wildcards of one node set, because each is compared with every node.
NODESET_MASKS_MAX: Final = 100
#: Nested groups.
GROUP_DEPTH_MAX: Final = 32
#: A command of a group source: a busy scheduler may be slow.
GROUP_UPCALL_S: Final = 20.0
GMOND_PORT: Final = 8649
GMOND_SERVERS_MAX: Final = 16
#: Looking up a gmond's name and connecting.
GMOND_CONNECT_S: Final = 2.0
#: Its whole answer, read and parsed.
GMOND_ANSWER_S: Final = 10.0
#: 10 KiB for a host with its usual metrics: more than 12,000 hosts.
GMOND_XML_MAX_BYTES: Final = 128 * 1024 * 1024
GMOND_DEPTH_MAX: Final = 32
#: Also for text between two tags. Ganglia's own tags have some hundred bytes.
GMOND_TAG_MAX_BYTES: Final = 1024 * 1024
#: How long --skip-down leaves out a node that could not be reached, and how many it remembers.
DOWN_FORGET_S: Final = 600.0
DOWN_NODES_MAX: Final = 4096

# -- this machine ----------------------------------------------------------------------------
#: A Unix socket's path: the kernel's limit (sun_path, without its NUL).
SOCKET_PATH_MAX_BYTES: Final = 107

# -- files -----------------------------------------------------------------------------------
#: Contents are hashed and kept sparse in blocks of this size.
ARCHIVE_BLOCK_BYTES: Final = 64 * 1024
#: Contents in one record of an archive stream, and one read of a file: larger is no faster.
ARCHIVE_DATA_MAX_BYTES: Final = 1024 * 1024
#: A name in a path; no Linux file system permits longer ones.
ARCHIVE_NAME_MAX_BYTES: Final = 255
#: A path in an archive stream: four times the limit of one system call.
ARCHIVE_PATH_MAX_BYTES: Final = 16 * 1024
#: Nested directories; each needs an open descriptor, and the usual limit of a process is 1024.
ARCHIVE_DEPTH_MAX: Final = 256
#: A symbolic link's target: the kernel's PATH_MAX, without its NUL.
ARCHIVE_TARGET_MAX_BYTES: Final = 4095
#: Contents of a file that reports no size (/proc, /sys), which are read into memory; some have no end.
ARCHIVE_UNSIZED_MAX_BYTES: Final = 64 * 1024 * 1024
#: Memory that compressed records may require from their reader.
ARCHIVE_WINDOW_MAX_BYTES: Final = 8 * 1024 * 1024
#: Extended attributes of one entry: names and values; the kernel permits 64 KiB for one value.
ARCHIVE_ATTRIBUTES_MAX_BYTES: Final = 80 * 1024
#: Extended attributes of one entry.
ARCHIVE_ATTRIBUTES_MAX: Final = 256
#: Entries of one list: what receivers answer at a time.
ARCHIVE_LIST_MAX: Final = 2048
#: Bytes of one list, before compression. A sender ends a list at half of it; one entry more fits.
ARCHIVE_LIST_MAX_BYTES: Final = 512 * 1024
#: Records that no signature covers yet, which a receiver keeps: rules, a list, and small files before it.
ARCHIVE_UNSIGNED_MAX_BYTES: Final = 2 * 1024 * 1024
#: Lists whose contents have not come yet: so many answers can be under way while contents are sent.
ARCHIVE_LISTS_MAX: Final = 8
#: Files with several names that a sender and each receiver remember: 60 MB.
ARCHIVE_LINKS_MAX: Final = 256 * 1024
#: The kernel's list of mounts: 10,000 of containers have 3 MiB.
MOUNTS_MAX_BYTES: Final = 32 * 1024 * 1024
#: Files that one pattern of gexec --fetch may match on a node.
ARCHIVE_MATCHES_MAX: Final = 65_536
#: Patterns of files to leave out of a copy: each is compared with each file.
ARCHIVE_PATTERNS_MAX: Final = 1000
#: One of them: as long as a path.
ARCHIVE_PATTERN_MAX_BYTES: Final = 4095
#: A list of files to copy: a million names, and memory for them.
FILES_FROM_MAX_BYTES: Final = 256 * 1024 * 1024
FILES_FROM_MAX: Final = 1_000_000
#: Messages of one receiver; a full disk could cause 10,000.
ARCHIVE_SAID_MAX: Final = 50

# -- background jobs -------------------------------------------------------------------------
#: The part of a job blob about the background: it has a name of up to 64 bytes.
BACKGROUND_MAX_BYTES: Final = 128
#: Bytes that a node keeps of each stream of a background job, without --keep.
KEEP_BYTES: Final = 5 * 1024 * 1024
#: The least: a fifth of it is a file. The most: a file system's.
KEEP_MIN_BYTES: Final = 64 * 1024
KEEP_MAX_BYTES: Final = 2**40
#: How long a node keeps output and outcome of a background job after its end, without --lease.
LEASE_S: Final = 86_400.0
#: The most: systemd-tmpfiles removes what has not changed for a day longer.
LEASE_MAX_S: Final = 30 * 86_400.0
#: Ranks of background jobs of one user that a node keeps, without the setting spool_jobs_max.
KEPT_JOBS_MAX: Final = 1000
#: MiB that a node keeps of them, without the setting spool_max_mib.
KEPT_MAX_MIB: Final = 4096
#: How long a job of --detach-on-hup waits for its first reader before it discards output.
HOLD_S: Final = 30.0


def window_bytes(ranks: int) -> int:
    """Return the window of one (rank, stream) in a job of ``ranks`` processes.

    JOB_WINDOW_BYTES bounds what any relay or client may have to hold for the job (twice that with both
    streams busy), but each stream keeps a useful minimum.
    """
    return max(WINDOW_MIN_BYTES, min(WINDOW_MAX_BYTES, JOB_WINDOW_BYTES // max(1, ranks)))
