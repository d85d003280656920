# A bash started before its program is known, with this as its BASH_ENV: it says that it waits, waits
# for one byte on descriptor 3 and sources its job from 4, which sets variables and the program's
# arguments. After that bash opens the file, as if it had only now been started.
builtin printf + >&5
builtin read -r -N 1 -u 3 || builtin exit 0
if [[ $REPLY != '!' ]]; then
  # A session: an interactive shell without a terminal, told by descriptor 0 what to do. Only such
  # a one comes back to its top level, with all it has, when a command is interrupted.
  builtin unset BASH_ENV REPLY
  builtin printf '+\n' >&5
  PS1='' PS2='' builtin exec /bin/bash --norc --noprofile --noediting +o history +o histexpand -i \
    6<&0 7>&2 0<&3 2>/dev/null 3<&-
fi
builtin . /dev/fd/4
exec 3<&- 4<&- 5>&-  # not `builtin exec`: that would open them again
builtin unset BASH_ENV REPLY
SECONDS=0
builtin : /bin/bash  # what $_ is at the start
