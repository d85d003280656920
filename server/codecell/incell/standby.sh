# A bash started before its program is known, with this as its BASH_ENV: it says that it waits, waits
# for one byte on descriptor 3 and sources its job from 4, which sets variables and the program's
# arguments. After that bash opens the file, as if it had only now been started.
builtin printf + >&5
builtin read -r -N 1 -u 3 || builtin exit 0
builtin . /dev/fd/4
exec 3<&- 4<&- 5>&-  # not `builtin exec`: that would open them again
builtin unset BASH_ENV REPLY
SECONDS=0
builtin : /bin/bash  # what $_ is at the start
