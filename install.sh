# Fills .venv: `sh install.sh app,train`, `sh install.sh dev` or `sh install.sh torch`. make calls it.
# TORCH_INDEX is the package index from which torch and torchvision are installed.
set -eu
cpu_builds=https://download.pytorch.org/whl/cpu
record=.venv/.torch-index # the TORCH_INDEX of the installed torch

pip() {
    .venv/bin/python -m pip --disable-pip-version-check "$@"
}

install() {
    begun=$(date +%s)
    if ! pip install "$@"; then
        echo "Not everything is installed. If there is no network now, run the same command later: it goes on." >&2
        exit 1
    fi
    echo "Installed in $(($(date +%s) - begun)) s."
}

install_torch() {
    if [ "$(cat $record 2>/dev/null)" = "$TORCH_INDEX" ] && [ ! pyproject.toml -nt $record ]; then
        return
    fi
    export PIP_INDEX_URL="$TORCH_INDEX" PIP_EXTRA_INDEX_URL="$TORCH_INDEX" # and no index of pip's settings
    if ! pip index versions torch --retries 0 --timeout 10 >/dev/null 2>&1; then
        echo "$TORCH_INDEX cannot be reached, or has no torch for this computer: the ordinary torch is used." >&2
        return
    fi
    echo "Installing torch from $TORCH_INDEX into .venv: the CPU build has 0.2 GB. Needed once."
    # The pair comes from one index, because torchvision of another build fails. An ordinary torch is replaced.
    install --force-reinstall -c requirements.txt torch torchvision
    echo "$TORCH_INDEX" >$record
}

announce() {
    if pip show -q torch 2>/dev/null; then
        echo "Installing the other packages into .venv: up to 0.4 GB to download. Needed once."
    elif [ "$(uname)" != Linux ]; then
        echo "Installing into .venv: up to 0.5 GB to download. Needed once, some minutes."
    else
        echo "Installing into .venv: up to 3.3 GB to download, 7 GB on disk, mostly torch. Needed once, some minutes."
        if [ -z "${TORCH_INDEX:-}" ] && ! command -v nvidia-smi >/dev/null; then
            echo "Without an NVIDIA GPU 0.5 GB are enough: press Ctrl-C, and add TORCH_INDEX=$cpu_builds"
        fi
    fi
}

if [ "$1" = torch ]; then
    install_torch
else
    announce
    install -e ".[$1]"
fi
