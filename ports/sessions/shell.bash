# What a bash of `ports shell --env` reads: what a login reads, and then it enters the environment, as a person would type.
# Login files can set PATH, and `conda init` enters its base environment in them; the named environment must win.
# The variables of the activation are there already.
ports_prefix=$PORTS_SHELL_PREFIX
unset PORTS_SHELL_PREFIX
[ -r /etc/profile ] && . /etc/profile
for ports_file in ~/.bash_profile ~/.bash_login ~/.profile; do
    if [ -r "$ports_file" ]; then
        . "$ports_file"
        break
    fi
done
if [ -d "$ports_prefix/conda-meta" ]; then
    if declare -F conda >/dev/null; then
        if [ "$CONDA_PREFIX" != "$ports_prefix" ]; then conda activate "$ports_prefix"; fi
    else
        PS1="(${ports_prefix##*/}) ${PS1-}"
    fi
    export CONDA_PREFIX=$ports_prefix
elif [ -r "$ports_prefix/bin/activate" ]; then
    . "$ports_prefix/bin/activate"
fi
case $PATH: in
    "$ports_prefix/bin:"*) ;;
    *) export PATH=$ports_prefix/bin:$PATH ;;
esac
unset ports_prefix ports_file
