a=$(head -c 900000 /dev/zero | tr "\\0" x)
while :; do a+=$a; done
