# Reads an smaps and prints, in KiB, what is resident of guest RAM and what beside it. Guest RAM is the
# largest mapping together with its anonymous neighbours: its first pages have an advice of their own.

/^[0-9a-f]+-[0-9a-f]+ / { split($1, ends, "-"); start[++n] = ends[1]; end[n] = ends[2]; anonymous[n] = NF == 5 }
$1 == "Size:" { size[n] = $2; if ($2 > size[ram]) ram = n }
$1 == "Rss:" { resident[n] = $2; all += $2 }
END {
  guest = resident[ram]
  for (i = ram; anonymous[i - 1] && end[i - 1] == start[i]; i--) guest += resident[i - 1]
  for (i = ram; anonymous[i + 1] && end[i] == start[i + 1]; i++) guest += resident[i + 1]
  printf "rss-vmm %d\nrss-guest %d\n", all - guest, guest
}
