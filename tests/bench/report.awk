# Reads "WHAT NAME VALUE" lines, prints the table and writes the JSON.

{ key = $1 " " $2; value[key, ++count[key]] = $3 + 0 }

function sort(key,    i, j, v) {
  for (i = 2; i <= count[key]; i++) {
    v = value[key, i]
    for (j = i - 1; j > 0 && value[key, j] > v; j--) value[key, j + 1] = value[key, j]
    value[key, j + 1] = v
  }
}
function least(key) { if (!count[key]) return ""; sort(key); return value[key, 1] }
function median(key) { sort(key); return value[key, int((count[key] + 1) / 2)] }
function verdict(v, target) { return target == "" ? "" : v == "" ? "not measured" : v <= target ? "PASS" : "MISS" }
function head(title) { printf "\n%-54s %11s %11s %11s\n", title, "least", "median", "target" }
function emit(id, label, unit, v, m, target, why,    shown) {
  shown = v == "" ? "-" : sprintf(unit == "M" ? "%.1f M" : unit == "ratio" ? "%.2f" : "%d", v)
  if (unit == "KiB" && v != "") shown = shown " KiB"
  printf "  %-52s %11s %11s %11s  %s\n", label, shown,
    m == "" ? "" : sprintf(unit == "M" ? "%.1f M" : "%d", m),
    target == "" ? "" : "<= " target (unit == "ratio" ? "" : " " unit), verdict(v, target) (why == "" ? "" : why)
  object = sprintf("    {\"id\": \"%s\", \"name\": \"%s\", \"unit\": \"%s\", \"value\": %s", id, label, unit, v == "" ? "null" : v)
  if (m != "") object = object ", \"median\": " m
  if (target != "") object = object sprintf(", \"target\": %s, \"verdict\": \"%s\"", target, verdict(v, target))
  objects = objects (objects == "" ? "" : ",\n") object "}"
}
function row(key, label, unit, target,    id) {
  id = key
  gsub(/ /, ".", id)
  emit(id, label, unit, least(key), count[key] > 1 ? median(key) : "", target)
}
function peer(name, label, asked) {
  if (asked == "") { printf "  %-52s %11s\n", label, "not run"; return }
  row(name "-traced entry", label ": exec to first entry", "M")
  row(name " user", label ": exec to user space", "M")
  row(name " exit", label ": exec to exit", "M")
  row(name "-traced exits", label ": KVM exits up to there", "")
  row(name "-traced exits-to-user", label ": of these to the VMM", "")
}
function reasons(    key, name, n, i, best, left) {
  for (key in count) if (key ~ /^pod-traced reason:/) { name = substr(key, 19); left[name] = median(key); n++ }
  while (n-- > 0) {
    best = ""
    for (name in left) if (best == "" || left[name] > left[best] || (left[name] == left[best] && name < best)) best = name
    row("pod-traced reason:" best, sprintf("  %-12s %3d of them to the VMM %8.2f M", best,
      median("pod-traced to-user:" best), median("pod-traced cost:" best)), "")
    delete left[best]
  }
}
function devices(name, title,    line, file, all) {
  printf "\n%-54s %14s %s\n", title, "per second", "  worker's CPU time"
  file = dir "/" name ".json"
  while ((getline line < file) > 0) {
    all = all (all == "" ? "" : "\n") line
    if (match(line, /"name": "[^"]*"/)) {
      label = substr(line, RSTART + 9, RLENGTH - 10)
      match(line, /"unit": "[^"]*"/); unit = substr(line, RSTART + 9, RLENGTH - 10)
      match(line, /"per_second": [0-9.]+/); rate = substr(line, RSTART + 14, RLENGTH - 14)
      match(line, /"worker_ns": [0-9.]+/); cost = substr(line, RSTART + 13, RLENGTH - 13)
      printf "  %-45s %14.0f %-8s %s\n", label, rate, unit, (cost + 0 > 0 ? sprintf("%7.1f us each", cost / 1000) : "")
    }
  }
  return all
}

END {
  head("Start of a pod: 1 vCPU, 256 MiB, instructions from exec")
  row("pod-traced entry", "first entry into the guest", "M")
  row("pod hello", "agent's hello", "M", 120)
  row("pod output", "container's first output", "M")
  row("pod exit", "exit of podvmm", "M")

  head("KVM exits up to the hello")
  row("pod-traced exits", "all", "", 500)
  row("pod-traced exits-to-user", "to the VMM", "")
  row("pod-traced guest", "the guest's own instructions between exits", "M")
  reasons()

  head("Resident memory while a container sleeps")
  row("pod rss-vmm", "VMM process outside guest RAM", "KiB", 4096)
  row("pod rss-cli", "podvmm itself", "KiB")
  row("pod rss-warden", "warden", "KiB")
  row("pod rss-guest", "guest RAM", "KiB")

  head("exec of `true` in what runs, start to end")
  row("exec podvmm", "podvmm exec", "M")
  row("exec runc", "runc exec", "M")
  p = median("exec podvmm"); r = median("exec runc")
  emit("ratio.exec", "podvmm exec / runc exec, by the medians", "ratio", p && r ? p / r : "", "", 1.5,
    r ? "" : " (runc is not installed)")

  head("Same kernel, trivial init, 1 vCPU, 256 MiB")
  peer("podvmm", "podvmm's VMM", "always")
  peer("firecracker", "Firecracker (FIRECRACKER=)", firecracker)
  peer("cloud-hypervisor", "Cloud Hypervisor (CLOUD_HYPERVISOR=)", hypervisor)
  peer("qemu", "QEMU microvm (QEMU=)", qemu)
  f = least("firecracker user"); p = least("podvmm user")
  emit("ratio.firecracker", "podvmm / Firecracker, to user space", "ratio", f && p ? p / f : "", "", 0.75,
    firecracker == "" ? " (FIRECRACKER= not set)" : "")

  vsock = devices("vsock", "virtio-vsock, driver kit on this machine")
  fs = devices("fs", "virtio-fs, driver kit on this machine")
  net = devices("net", "virtio-net, driver kit on this machine")
  printf "{\n  \"figures\": [\n%s\n  ],\n  \"vsock\": %s,\n  \"fs\": %s,\n  \"net\": %s\n}\n", objects, vsock, fs, net > json
  print "\nwritten: " json
}
