"""The guarantees, as data: an ID first, then the test that attacks it, then the row in SECURITY.md.

`python tests/security/requirements.py` writes its two tables into SECURITY.md, between
`<!-- guarantees -->` and `<!-- gvisor -->` and their ends; test_coverage.py holds all three equal.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
SECURITY = TESTS.parent / "SECURITY.md"
OPEN, CLOSE = "<!-- guarantees -->", "<!-- /guarantees -->"
OPEN_GVISOR, CLOSE_GVISOR = "<!-- gvisor -->", "<!-- /gvisor -->"


@dataclass(frozen=True, slots=True)
class Requirement:
    """What is promised, and what keeps the promise."""

    guarantee: str
    mechanism: str


REQUIREMENTS: dict[str, Requirement] = {
    # --- network ---
    "net:no-interface": Requirement(
        "A program has no network: no interface but its own loopback, no route, no name server.",
        "own network namespace, never attached (`NetworkMode: none`, `NetworkDisabled`)",
    ),
    "net:loopback-host-unreachable": Requirement(
        "What listens on the host's loopback can't be reached.", "own network namespace"
    ),
    "net:abstract-sockets": Requirement(
        "The host's abstract UNIX sockets can't be reached.", "own network namespace"
    ),
    "net:cells-apart": Requirement(
        "Two cells share no loopback and no abstract socket.", "a network namespace per cell"
    ),
    # --- files ---
    "fs:read-only-root": Requirement(
        "Nothing outside /sandbox, /tmp, /dev/shm and /dev/mqueue can be written.",
        "`ReadonlyRootfs`; /dev, /proc and /sys belong to root",
    ),
    "fs:nothing-of-the-host": Requirement(
        "No host directory, device or engine socket is in a cell.",
        "no binds, volumes or devices; checked against what the engine says it made",
    ),
    "fs:tmpfs-size": Requirement(
        "A cell writes no more than the size of its /sandbox and /tmp.", "tmpfs `size=`"
    ),
    "fs:tmpfs-inodes": Requirement(
        "A flood of empty files ends at a bound.",
        "tmpfs `nr_inodes=`; in /dev/shm the cell's memory, which they cost",
    ),
    "fs:file-size": Requirement(
        "No file grows past the size of /sandbox, sparse ones included.", "ulimit `fsize`"
    ),
    "fs:mount-options": Requirement(
        "Writable places know no setuid and no devices, and only /sandbox executes.",
        "tmpfs `nosuid,nodev`, and `noexec` outside /sandbox",
    ),
    "fs:kernel-settings": Requirement(
        "Kernel settings, cgroup limits and sysrq can't be written.",
        "`ReadonlyPaths`, read-only sysfs and cgroups, no root",
    ),
    "fs:masks": Requirement(
        "What the kernel tells of the host is covered, also what the engine's own list does not "
        "have yet, and kernel settings are read-only for everyone.",
        "`MaskedPaths` and `ReadonlyPaths` in full, whatever the engine's defaults are",
    ),
    # --- privileges ---
    "priv:not-root": Requirement(
        "A program is never root, and can't become any other user.",
        "numeric uid, no capabilities, no setuid files in the images",
    ),
    "priv:own-uid": Requirement(
        "No two live cells share a uid, so none exhausts another's per-user quotas.",
        "a free uid per container, claimed by its name",
    ),
    "priv:no-capabilities": Requirement("All five capability sets are empty.", "`CapDrop: ALL`"),
    "priv:apparmor": Requirement(
        "Where the engine has AppArmor its profile confines every cell, or the cell is not used.",
        "`apparmor=docker-default` by name, read back from the engine",
    ),
    "priv:no-new-privileges": Requirement(
        "No executed file can add a privilege.", "`no-new-privileges`"
    ),
    # --- system calls ---
    "seccomp:active": Requirement(
        "A system call filter is always in force.", "our own seccomp profile, an allow-list"
    ),
    "seccomp:no-vsock": Requirement(
        "Hypervisor sockets (AF_VSOCK) are refused.", "seccomp: four socket families"
    ),
    "seccomp:no-kernel-crypto": Requirement(
        "Kernel crypto sockets (AF_ALG) are refused.", "seccomp: four socket families"
    ),
    "seccomp:no-raw-packets": Requirement(
        "Packet and raw sockets are refused.", "seccomp; no `CAP_NET_RAW`"
    ),
    "seccomp:no-module-loading": Requirement(
        "Rare protocols (SCTP, DCCP, MPTCP, SMC, netfilter) are refused before the host's kernel "
        "would load a module.",
        "seccomp: family, type and protocol of a socket",
    ),
    "seccomp:no-namespaces": Requirement(
        "No new namespace, so no new capabilities in one.",
        "seccomp: unshare, setns, clone flags, clone3",
    ),
    "seccomp:no-io-uring": Requirement("io_uring is not there.", "seccomp: ENOSYS"),
    "seccomp:no-keyring": Requirement("The kernel's keyrings are refused.", "seccomp"),
    "seccomp:no-tracing": Requirement(
        "ptrace and its relatives are refused.", "seccomp: ptrace, process_vm_*, pidfd_getfd, kcmp"
    ),
    "seccomp:no-kernel-programs": Requirement(
        "bpf, perf events and userfaultfd are refused.", "seccomp"
    ),
    "seccomp:no-mounts": Requirement(
        "Mounting is refused, by the old calls and the new.", "seccomp; no capabilities"
    ),
    "seccomp:no-host-control": Requirement(
        "Kernel modules, kexec, clock, host name, reboot and a sync of the host's disks are "
        "refused.",
        "seccomp; no capabilities",
    ),
    "seccomp:no-foreign-architecture": Requirement(
        "The 32-bit and x32 doors into the kernel are shut.",
        "seccomp: the native architecture only",
    ),
    "seccomp:every-language": Requirement(
        "Every language passes its matrix within these walls; none is lowered for one.",
        "one profile for all languages; only an operator's policy names another",
    ),
    # --- resources ---
    "res:memory": Requirement(
        "A memory bomb ends as `out_of_memory`, with what it had printed.",
        "`Memory` = `MemorySwap`; the program dies before the agent",
    ),
    "res:shared-memory": Requirement("/dev/shm is bounded.", "`ShmSize`, counted as memory"),
    "res:fork-bomb": Requirement(
        "A fork bomb stays within the cell's process limit and is ended.", "`PidsLimit`"
    ),
    "res:others-undisturbed": Requirement(
        "A bomb in one cell leaves runs in others alone.", "cgroup limits per cell"
    ),
    "res:cpu": Requirement("A cell gets no more than its share of CPU.", "`CpuQuota`"),
    "res:time": Requirement(
        "An endless loop ends at its timeout, also when it ignores every signal.",
        "the agent's deadline and SIGKILL; the server's own behind it",
    ),
    "res:open-files": Requirement("Open files are bounded.", "ulimit `nofile`"),
    "res:rlimits": Requirement(
        "Every run begins with the cell's hard limits on core dumps, file size, open files and "
        "locked memory.",
        "ulimits, hard and soft the same",
    ),
    "res:no-core-dumps": Requirement("A crash writes no core dump.", "ulimit `core` 0"),
    # --- output ---
    "out:flood": Requirement(
        "A flood of output ends as `output_limit`, and the server keeps only the cap.",
        "counted in the agent, capped on both sides",
    ),
    "out:truncated": Requirement(
        "Output past the cap is cut and said to be; the program runs on.", "capture per stream"
    ),
    "out:counted": Requirement(
        "Size and SHA-256 told of a stream are of all that was written, shown or not.",
        "counted and hashed in the agent, or by the server where it has all of it",
    ),
    "out:values": Requirement(
        "A value that a program shows is only a value: whatever it is or claims to be, the run's "
        "status, time and output stay what they were.",
        "bounded in the cell, read as hostile bytes by the server: types, sizes, JSON, PNG, JPEG",
    ),
    "out:files": Requirement(
        "Of what a run leaves only regular files come back, under plain relative paths: no link is "
        "followed, no FIFO, socket or device opened, and no path leads out of the store.",
        "opened without following links, in the cell; paths are judged as a request's are; stored "
        "under numbers",
    ),
    "out:partial": Requirement(
        "Whatever the ending, output until then is kept.", "streamed as it comes"
    ),
    "out:no-forgery": Requirement(
        "Nothing a program prints, exits with or writes to any descriptor changes the facts of "
        "its result.",
        "status from the kernel's facts alone; the agent's stream is closed in the program",
    ),
    "out:closed-streams": Requirement(
        "Closing stdout is not the end of a run, and not closing it does not prolong one.",
        "the end is the main process's; the rest is killed",
    ),
    "out:any-bytes": Requirement(
        "Bytes that are not UTF-8 are repaired and said to be; control bytes stay as they are.",
        "decoded in the server with replacement",
    ),
    # --- processes ---
    "proc:nothing-survives": Requirement(
        "No process outlives its run, whatever session or group it hid in.",
        "the agent kills all (`kill(-1)` from PID 1) and the cell is removed",
    ),
    "proc:cells-apart": Requirement(
        "No process outside the cell is visible or can be signalled.", "own PID namespace"
    ),
    # --- the agent ---
    "agent:unkillable": Requirement(
        "A program can't kill, stop, slow down or starve the agent.",
        "PID 1 of the namespace; seccomp: limits and priorities of any process but PID 1",
    ),
    "agent:untraceable": Requirement(
        "A program can't read or change the agent's memory or descriptors.",
        "`PR_SET_DUMPABLE` 0; seccomp",
    ),
    "agent:stream-closed": Requirement(
        "A program inherits no descriptor but stdin, stdout and stderr.",
        "closed in the child before it reads its job",
    ),
    # --- cells ---
    "cell:used-once": Requirement(
        "Nothing of a run is left for the next: files, shared memory, queues or uid.",
        "a cell serves one run and is thrown away",
    ),
    "reuse:nothing-passes": Requirement(
        'With `reuse = "caller"` nothing passes from one run to the next: files, shared memory, '
        "System V IPC, queues, environment, modules, timers, signals, limits, umask, descriptors.",
        "the agent kills all, wipes every writable place, forks or starts the next process anew",
    ),
    "reuse:no-process": Requirement(
        "With `reuse` no process is left when the next run begins.",
        "PID 1 kills every process and reaps until it has no child",
    ),
    "reuse:no-memory": Requirement(
        "With `reuse` no run finds an earlier one's bytes in its memory.",
        "the agent passes them through buffers that a fork does not inherit",
    ),
    "reuse:one-caller": Requirement(
        "A cell never passes from one caller to another.", "bound to its first caller for good"
    ),
    "reuse:fails-closed": Requirement(
        "A cell that can't be proved empty is thrown away.", "a failed wipe ends the agent"
    ),
    "cell:ipc-apart": Requirement(
        "Cells that live at the same time share no IPC.", "`IpcMode: private`"
    ),
    "cell:namespaces": Requirement(
        "A cell has mounts, processes, network, IPC, host name and cgroups of its own: none of "
        "these namespaces is the host's or another cell's.",
        "a namespace of each kind per container (`PidMode`, `IpcMode`, `UTSMode`, `CgroupnsMode`)",
    ),
    "cell:one-file": Requirement(
        "Everything that the engine is told of a cell stands in one file, and it adds nothing.",
        "`backends/docker/spec.py` is the whole body of the create call",
    ),
    "cell:verified": Requirement(
        "A cell that the engine made with a wall missing is not used.",
        "the first of each kind is compared with what was asked",
    ),
    # --- policies ---
    "policy:nothing-widens": Requirement(
        "Nothing in a request changes or widens the policy of its caller.",
        "the plan is made by pure code from the request and the caller's own policy",
    ),
    "policy:apart": Requirement(
        "A cell made under one policy never serves another.",
        "the policy's walls are the pool's key",
    ),
    # --- proving it on the operator's own machine ---
    "attack:can-fail": Requirement(
        "`codecell doctor --attack` names a wall that is missing, and its exit status says so.",
        "probes in a real cell; each is tried against a cell that was weakened on purpose",
    ),
    "attack:start": Requirement(
        "`codecell serve` runs nothing and leaves when a critical wall is missing.",
        "no run is admitted before the critical probes have held (`security.attack_check`)",
    ),
    # --- the audit log ---
    "audit:complete": Requirement(
        "Every request, refusal, cell and session event leaves a line, with the verdict and the "
        "limits, and code and input as SHA-256 alone.",
        "an observer of the runner and the pool; text only with `audit.text`",
    ),
    "audit:tampering": Requirement(
        "A line that was changed, removed, moved, inserted or cut off is found, with its place. "
        "Who can write log and head can forge both: then only an anchor kept elsewhere shows it.",
        "each line carries the hash of the one before; a head beside the log; `--expect`",
    ),
    "audit:no-injection": Requirement(
        "No text of a caller or a program makes a line, ends one or reaches a terminal raw.",
        "JSON in printable ASCII",
    ),
    "audit:rotation": Requirement(
        "Rotation keeps the chain, and only rotation removes files unseen.",
        "the head names the oldest line that is kept",
    ),
    "audit:own-files": Requirement(
        "Two servers never write into one chain.", "a lock; the second takes a chain of its own"
    ),
    "audit:failure": Requirement(
        "When the log can't be written, nothing runs (`refuse`) or an alarm is raised "
        "(`continue`); what is lost is counted, and a kill leaves a chain that goes on.",
        "a run begins after its line is written; failed writes are undone and tried again",
    ),
    # --- what is told of the host ---
    "host:no-info": Requirement(
        "Host name, name servers, cgroup paths, boot id, boot parameters, devices and kernel log "
        "of the host are not told.",
        "constants, `CgroupnsMode: private`, `MaskedPaths`, seccomp",
    ),
    "host:mounts": Requirement(
        "The mount table tells of the host only where the engine keeps its data, on which disk, "
        "and the cell's own id.",
        "no binds; what Docker itself mounts",
    ),
    "host:no-environment": Requirement(
        "The server's environment and secrets are not in a cell.", "environment from scratch"
    ),
    # --- files in and out, and what can be read later ---
    "file:paths": Requirement(
        "A file of a request is written where its path says, inside /sandbox, or the request is "
        "refused by name before anything runs.",
        "paths are judged by the server; the agent goes down by descriptors and follows no link",
    ),
    "file:bounds-in": Requirement(
        "The files of a request are bounded in number and bytes.",
        "`files.in_count`, `files.in_size` and /sandbox itself, before anything runs",
    ),
    "file:manifest": Requirement(
        "What is said of the files of a run is what an independent look at the same tree finds.",
        "PID 1 notes what was there before the program begins, and looks when all are dead",
    ),
    "file:bounds-out": Requirement(
        "What a cell says of its files is bounded, checked and never believed: number, bytes, "
        "paths, types and hashes.",
        "`files.out_*`; the server judges paths and computes size, type and SHA-256 itself",
    ),
    "file:changing": Requirement(
        "A file that changes while it is read does not come back half; it is named, with the "
        "reason.",
        "size and times are compared behind the last byte",
    ),
    "store:caller": Requirement(
        "A stored result is its caller's: for another one its address does not exist.",
        "looked up by address and caller; the answer is that of an unknown address",
    ),
    "store:bounds": Requirement(
        "Stored results are bounded in bytes, for one caller and in all, and in number; a caller's "
        "flood takes the room of its own alone until the whole is full.",
        "`store.caller_size`, `store.size`, `store.items`; the oldest go first",
    ),
    "store:gone": Requirement(
        "A stored result goes in time, with its session or with the server; a killed server's are "
        "removed by the next.",
        "`store.ttl_s`; the spool's lock tells whether its server lives",
    ),
    "store:private": Requirement(
        "Stored results are readable by the server's user alone.", "spool 0700, files 0600"
    ),
    "store:ranges": Requirement(
        "A read returns the range that was asked for, never more than one answer holds.",
        "offsets are checked; larger ones are refused with how to read in parts",
    ),
    "store:memory": Requirement(
        "A flood of output is stored up to its cap without being held in the server's memory.",
        "`limits.stream`; what does not fit into a result is written as it comes",
    ),
    # --- sessions ---
    "session:caller": Requirement(
        "A session is its caller's: another caller's same id is another session in another cell.",
        "sessions are looked up by caller and id; a cell never changes callers",
    ),
    "session:never-recycled": Requirement(
        "A session's cell serves nobody after it.", "it is removed, never wiped for reuse"
    ),
    "session:no-forgery": Requirement(
        "A program in a session can decide its own exit code, and no status, limit or report.",
        "the agent and the kernel tell the ending; what the interpreter says is one number",
    ),
    "session:truthful": Requirement(
        "However a step of a session ends, its report says what survived, and that did.",
        "the agent tells what it kept; a cell that is gone is `lost_and_recreated`",
    ),
    "session:server-killed": Requirement(
        "`kill -9` of the server ends its sessions and all that runs in them within 5 seconds.",
        "as for every cell",
    ),
    # --- cleaning up ---
    "clean:finished": Requirement(
        "A finished run leaves no container behind.", "removed after each run; `AutoRemove`"
    ),
    "clean:cancelled": Requirement(
        "A cancelled run leaves no process and no container behind.",
        "removed in the background, shielded from the cancellation",
    ),
    "clean:timed-out": Requirement(
        "A timed-out run leaves no process and no container behind.", "as for any other ending"
    ),
    "clean:closed": Requirement(
        "Closing the server leaves no container behind.", "every cell is removed on the way out"
    ),
    "clean:server-killed": Requirement(
        "`kill -9` of the server leaves no process and no container behind within 5 seconds.",
        "the agent ends at the end of its stream; `AutoRemove`",
    ),
    "clean:faults": Requirement(
        "An engine that dies, hangs, has a full disk or has lost an image costs the runs of that "
        "time, each of which says so, and leaves no container, descriptor or thread behind.",
        "deadlines on every call; each cell is undone where its making fails",
    ),
    "clean:disk": Requirement(
        "A full disk of the server's own costs results that were to be kept, and no run.",
        "what can't be stored is named as left out",
    ),
    "clean:clock": Requirement(
        "When the time of day jumps, no limit, session, stored result or log line is the worse.",
        "everything is timed by the monotonic clock; the audit log is ordered by its chain",
    ),
    "clean:others": Requirement(
        "Servers on one engine, of whatever version, leave each other's cells alone; only those of "
        "a server that is certainly dead are removed.",
        "labels with boot, pid namespace, pid and start time",
    ),
    "out:parsers": Requirement(
        "The parsers on both ends of the protocol take any stream of bytes, however it is cut, and "
        "any values in its frames.",
        "bounded frames, known types, one kind of error; fuzzed, with a kept corpus",
    ),
    "res:every-bomb": Requirement(
        "Bombs of memory, processes, time, formats, output and files in a dozen languages, and "
        "bombs in compilers, end as stated and leave the next run alone.",
        "the cell's limits; no language is trusted to have limits of its own",
    ),
    # --- every door, one case each ---
    "seccomp:every-door": Requirement(
        "Every system call and kind of socket that is not allowed is refused by the filter, "
        "whatever its number.",
        "seccomp: an allow-list for the native architecture",
    ),
    "fs:every-path": Requirement(
        "No file of the kernel's or the host's in /proc, /sys, /dev, /etc and /run can be written, "
        "and those that tell of the host or the agent show nothing.",
        "`MaskedPaths`, `ReadonlyPaths`, `ReadonlyRootfs`, no devices, `PR_SET_DUMPABLE` 0",
    ),
    "priv:nothing-more": Requirement(
        "No device, link, identity, priority or limit gives a program more than its cell has.",
        "no capabilities, hard ulimits, mount options, seccomp",
    ),
    # --- other engines ---
    "engine:remapped": Requirement(
        "Every wall holds with `userns-remap` too, where a cell's uid owns nothing on the host.",
        "the engine's own user namespace is never switched off (`UsernsMode`)",
    ),
    "engine:rootless": Requirement(
        "On a rootless engine a cell has its limits, or nothing runs.",
        "what the engine says it made is compared with what was asked",
    ),
    # --- gVisor (`engine.runtime = "runsc"`) ---
    "gvisor:kernel": Requirement(
        "Under gVisor a program's system calls end in gVisor's kernel, and its result says so.",
        "`Runtime: runsc`, read back from the engine",
    ),
    "gvisor:agent-apart": Requirement(
        "Under gVisor, which does not protect PID 1, a program can't signal the agent or open its "
        "stream.",
        "a uid of its own: the agent is root of gVisor's kernel, the program the cell's uid",
    ),
    "gvisor:filter": Requirement(
        "Our system call filter is in force inside gVisor too.",
        "runsc registered with `--oci-seccomp` (`codecell setup --runtime runsc`)",
    ),
    "gvisor:process-limit": Requirement(
        "Under gVisor a program's processes and threads stop at the cell's limit.",
        "ulimit `nproc`, which gVisor counts per cell",
    ),
    "gvisor:ends": Requirement(
        "Bombs, floods and endless programs end under gVisor as well.",
        "the agent's deadline; the server's own behind it; cgroup limits around the sandbox",
    ),
    "gvisor:probes": Requirement(
        "Under gVisor too every probe of `codecell doctor --attack` holds, or says why it says "
        "nothing there.",
        "the catalogue knows what gVisor's own kernel answers",
    ),
    "gvisor:no-fallback": Requirement(
        "A runtime that the engine lacks is never replaced by another: nothing runs.",
        "the engine's list of runtimes is read before a cell is made",
    ),
    # --- http ---
    "http:addresses": Requirement(
        "A page in a browser can't call the server: neither from another origin nor by a name that "
        "was rebound to its address.",
        "Host and Origin are compared with lists, on every path but the health endpoints",
    ),
    "http:open-address": Requirement(
        "A server that other machines can reach does not start without authentication, without "
        "TLS (unless `http.plain` says that a proxy ends it) or without names for its Host check.",
        "checked before anything is opened",
    ),
    "http:tokens": Requirement(
        "Only who shows a valid token is served; whoever reads the token file learns none.",
        "256 random bits, kept as SHA-256 in a file of mode 0600, compared in constant time",
    ),
    "http:oauth": Requirement(
        "An access token counts only with the issuer's signature, its name, this audience, a "
        "subject and a time that is not over.",
        "JWT by a list of asymmetric algorithms, keys from the issuer's JWKS alone",
    ),
    "http:scopes": Requirement(
        "A caller does only what its scopes say.", "checked by each tool and each operator's page"
    ),
    "http:sessions-apart": Requirement(
        "A caller can't use another's MCP session, whatever it knows of it.",
        "a session belongs to the caller that opened it",
    ),
    "http:bounds": Requirement(
        "Requests take bounded memory, however many and large they are.",
        "a bound for each body and one for all together, before they are read",
    ),
    "http:garbage": Requirement(
        "Bytes, headers and messages that are wrong in any way are refused, and nobody else "
        "notices.",
        "a strict parser, one connection for each client, no state before a caller is known",
    ),
    "http:slow": Requirement(
        "Who sends too slowly, does not read, or holds connections open is cut.",
        "one deadline for a whole request, one for an unread answer, a bound on connections",
    ),
    # --- fairness ---
    "load:own-result": Requirement(
        "Under load every caller gets its own result and no other, and nothing is left behind.",
        "each run a cell, a stream and an answer of its own; checked with nonces",
    ),
    "fair:queue": Requirement(
        "A caller's single call waits for at most one run to end, however many another has.",
        "a free place goes to the caller with the fewest runs in flight",
    ),
    "fair:quota": Requirement(
        "A caller uses no more runs and CPU seconds in a minute than it may.",
        "buckets that refill; CPU from the kernel's counters, debts carried over",
    ),
}


SEEN = "a program's processes are gVisor's own, and the host sees none of them"
# What the tests under gVisor leave out (`make gvisor`), with what is so there instead: whole tests,
# or the one case that is named in brackets by its pytest id.
OTHERWISE: dict[str, str] = {
    "security/test_privileges.py::"
    "test_own_status_shows_no_capability_no_new_privileges_and_a_filter":
        "nothing is told of ambient capabilities and no-new-privileges; the other sets are empty "
        "(`gvisor:agent-apart`) and the filter is on (`gvisor:filter`)",
    "security/test_privileges.py::test_machine_code_for_the_32_bit_and_x32_doors_dies_of_sigsys":
        "the doors lead into gVisor's own kernel, which answers",
    "security/test_processes.py::test_signalling_the_agent_changes_nothing":
        "signals to the agent are refused (`gvisor:agent-apart`) and not without effect",
    "security/test_processes.py::test_starving_the_agent_by_limits_and_priorities_is_refused":
        "setting the agent's priority is allowed and has no effect; its limits can't be set",
    "security/test_processes.py::test_reading_the_agent_through_proc_is_denied":
        "the agent's environment (constants) and memory map are told; memory and stream are closed",
    "security/test_cells.py::test_looking_for_the_host_finds_constants":
        "the container's id is told (`/proc/self/cgroup`); it opens nothing",
    "security/test_cells.py::test_ended_run_leaves_no_process_and_no_container": SEEN,
    "security/test_cells.py::test_cancelled_run_leaves_no_process_and_no_container": SEEN,
    "security/test_cells.py::test_kill_9_of_the_server_leaves_nothing_behind_within_5_seconds":
        SEEN,
    "security/test_sessions.py::test_kill_9_of_the_server_ends_its_sessions": SEEN,
    "integration/test_sessions.py::test_each_ending_says_what_survived_and_it_did[memory]":
        "a memory bomb may end all of gVisor: then the session's files are lost too, and the "
        "report says so (`session:truthful`)",
    "integration/test_languages.py::test_a_slice_that_no_memory_holds":
        "gVisor does not refuse the address space; Go's runtime crashes in it (`execution_error`)",
    "security/test_filesystem.py::test_writing_everywhere_succeeds_in_the_scratch_places_alone":
        "there is no /dev/mqueue",
    "security/test_walls.py::"
    "test_comparing_namespaces_finds_none_of_the_hosts_and_none_of_another_cells":
        "each cell has a kernel of its own, which numbers its namespaces as every other does, and "
        "has none for cgroups",
    "security/test_walls.py::"
    "test_looking_at_the_mounts_finds_every_mask_and_every_read_only_path":
        "what would be masked is not there or is gVisor's own, and nothing is mounted over it",
    "security/test_walls.py::"
    "test_mount_table_tells_of_the_host_the_engines_own_folder_and_disk_alone":
        "the table is gVisor's own: of the host it tells the cell's container id alone",
    "security/test_filesystem.py::test_mount_table_has_no_host_directory_and_no_socket":
        "/dev has `fuse` and `net/tun` of gVisor's own kernel; no device of the host",
    "security/test_filesystem.py::test_flood_of_empty_files_ends_with_no_space":
        "files in a tmpfs are not counted; they cost the cell's memory, which is",
    "security/test_filesystem.py::"
    "test_scratch_places_have_no_setuid_no_devices_and_only_sandbox_executes":
        "`noexec` is kept, but the mount options are not all told; setuid has no effect",
    "security/test_resources.py::test_forking_until_it_fails_stops_at_the_process_limit":
        "gVisor's own share of fifty processes is more than 256 MiB; with more memory the limit "
        "holds (`gvisor:process-limit`)",
    "security/test_resources.py::test_burning_on_four_processes_gets_the_cells_share_of_cpu":
        "the quota is the host's and holds, but CPU time is counted by gVisor, which also counts "
        "what it waits for",
}  # fmt: skip


def otherwise() -> str:
    """Return the list of SECURITY.md."""
    lines = ["| Test | Under gVisor |", "|---|---|"]
    return "\n".join([*lines, *(f"| `{test}` | {why} |" for test, why in OTHERWISE.items())])


def is_otherwise(test: str) -> bool:
    """Tell whether a test, by its pytest id from tests/ on, is among them: whole or this case."""
    return test in OTHERWISE or test.partition("[")[0] in OTHERWISE


def marks() -> Iterator[tuple[str, str]]:
    """Yield (requirement ID, test) for every mark under tests/, read without importing anything."""
    for test, decorators in _tests():
        for decorator in decorators:
            if identifier := _identifier(decorator):
                yield identifier, test


def cases() -> Iterator[str]:
    """Yield test[id] for every case whose id is written down in its test's decorators."""
    for test, decorators in _tests():
        for decorator in decorators:
            for node in ast.walk(decorator):
                if isinstance(node, ast.keyword) and node.arg in {"id", "ids"}:
                    for part in ast.walk(node.value):
                        if isinstance(part, ast.Constant):
                            yield f"{test}[{part.value}]"


def _tests() -> Iterator[tuple[str, list[ast.expr]]]:
    for path in sorted(TESTS.rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{path.relative_to(TESTS)}::{node.name}", node.decorator_list


def _identifier(decorator: ast.expr) -> str | None:
    match decorator:
        case ast.Call(func=ast.Attribute(attr="requirement"), args=[ast.Constant(value=str(text))]):
            return text
        case _:
            return None


def table() -> str:
    """Return the table of SECURITY.md."""
    tests: dict[str, list[str]] = {}
    for identifier, test in marks():
        tests.setdefault(identifier, []).append(test)
    lines = ["| Guarantee | Mechanism | ID | Test |", "|---|---|---|---|"]
    for identifier, requirement in REQUIREMENTS.items():
        proof = "<br>".join(f"`{test}`" for test in tests.get(identifier, []))
        lines.append(
            f"| {requirement.guarantee} | {requirement.mechanism} | `{identifier}` | {proof} |"
        )
    return "\n".join(lines)


def told(text: str) -> str:
    """Return the text of SECURITY.md with the tables as they are now."""
    for start, end, rows in ((OPEN, CLOSE, table()), (OPEN_GVISOR, CLOSE_GVISOR, otherwise())):
        before, _, rest = text.partition(start)
        text = f"{before}{start}\n{rows}\n{end}{rest.partition(end)[2]}"
    return text


if __name__ == "__main__":
    SECURITY.write_text(told(SECURITY.read_text(encoding="utf-8")), encoding="utf-8")
