# Reads one trace of one start and prints its marks, "NAME VALUE" on a line: millions of instructions
# from the exec of `exe` (the lab's clock ticks once per instruction), and numbers of KVM exits up to
# the end of the start, which is the agent's hello or the first port write of a trivial init.

function mark(name) { if (!(name in at)) { at[name] = now; printf "%s %.3f\n", name, (now - began) * 1000 } }

{
  event = 0
  for (i = 2; i < NF; i++) if ($i ~ /^[0-9]+\.[0-9]+:$/) { event = i + 1; break }
  if (!event) next
  now = $(event - 1) + 0
  name = $event
}
name == "sched_process_exec:" && !pid && match($0, /filename=[^ ]*/) {
  path = substr($0, RSTART + 9, RLENGTH - 9)
  if (path == exe) { match($0, / pid=[0-9]+/); pid = substr($0, RSTART + 5, RLENGTH - 5); began = now }
  next
}
!pid { next }
name == "sched_process_exit:" && index($0, " pid=" pid " ") { mark("exit"); next }
name == "tracing_mark_write:" && /agent ready/ { mark("hello"); over = 1; next }
name == "tracing_mark_write:" && $NF == "first-output" { mark("output"); next }
over { next }
name == "kvm_pio:" && / at 0x600 / { mark("user"); over = 1 }
name == "kvm_entry:" {
  mark("entry")
  if (reason != "") cost[reason] += now - left
  reason = ""
  entered = now
}
name == "kvm_exit:" {
  if (entered) guest += now - entered
  left = now
  match($0, /reason [^ ]+/)
  reason = substr($0, RSTART + 7, RLENGTH - 7)
  # A nested page fault is a first touch of memory or an access to a device's registers.
  if (reason == "npf")
    reason = / info2 0x00000000fec/ ? "npf-ioapic" : / info2 0x00000000[0-9a-c]/ ? "npf-memory" : "npf-device"
  exits[reason]++
  total++
}
name == "kvm_userspace_exit:" && reason != "" { to_user[reason]++; users++ }
END {
  if (!total) exit
  printf "exits %d\nexits-to-user %d\nguest %.3f\n", total, users, guest * 1000
  for (r in exits) printf "reason:%s %d\nto-user:%s %d\ncost:%s %.3f\n", r, exits[r], r, to_user[r], r, cost[r] * 1000
}
