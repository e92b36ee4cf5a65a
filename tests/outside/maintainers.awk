# Counts maintainer addresses in the output of `apt-cache dumpavail`.
#
# This is the independent path: it shares no code with the loader and none with the server. Addresses are
# compared in lower case, as the store folds them. The first file lists addresses to leave out, one a line;
# the second is the dump. Run it with LC_ALL=C: lower case is then that of ASCII.
#
# Output, separated by tabs: total N | exact DOMAIN N | subtree DOMAIN N (for each domain in -v ask="A B") |
# domain DOMAIN N (each one) | address ADDRESS PACKAGES (each one)

FNR == NR && FILENAME == ARGV[1] { left_out[$0] = 1; next }

/^Maintainer:/ {
    field = $0
    sub(/^Maintainer:[ \t]*/, "", field)
    sub(/[ \t]+$/, "", field)
    split("", in_this_field)
    found = 0
    while (match(field, /<[^<>]*>/)) {
        note(substr(field, RSTART + 1, RLENGTH - 2))
        field = substr(field, RSTART + RLENGTH)
        found = 1
    }
    if (!found) note(field)
}

function note(address) {
    gsub(/^[ \t]+|[ \t]+$/, "", address)
    address = tolower(address)
    if (address == "" || address ~ /[\200-\377]/ || address in left_out || address in in_this_field) return
    in_this_field[address] = 1
    packages[address]++
}

END {
    for (address in packages) {
        total++
        domain = address
        sub(/^.*@/, "", domain)
        per_domain[domain]++
        printf "address\t%s\t%d\n", address, packages[address]
    }
    for (domain in per_domain) printf "domain\t%s\t%d\n", domain, per_domain[domain]
    asked = split(ask, ask_for, " ")
    for (i = 1; i <= asked; i++) {
        exact = subtree = 0
        for (address in packages) {
            if (ends_with(address, "@" ask_for[i])) exact++
            if (ends_with(address, "@" ask_for[i]) || ends_with(address, "." ask_for[i])) subtree++
        }
        printf "exact\t%s\t%d\n", ask_for[i], exact
        printf "subtree\t%s\t%d\n", ask_for[i], subtree
    }
    printf "total\t%d\n", total
}

function ends_with(text, end) {
    return length(text) >= length(end) && substr(text, length(text) - length(end) + 1) == end
}
