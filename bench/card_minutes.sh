#!/usr/bin/env bash
# Turns minutes of one rented graphics card into the best weights. Three commands:
#
#   bench/card_minutes.sh kit --data ROOT... [--have FILE] [--coco FILE]     at home: all that the card's machine lacks
#   bench/card_minutes.sh receive                                            there: take in what has come of the kit
#   bench/card_minutes.sh train --minutes 15 [--visit-minutes 9]             there: train, evaluate, write the results
#
# The machine there needs this repository, Python 3.11 or newer with PyTorch and torchvision, and no network. What it
# gives in one visit may be cut off: `receive` takes the kit in several visits as long as the machine keeps its disk,
# and `train`, called again with the same words, goes on from the last checkpoint, at most a minute old.
set -euo pipefail
caller=$PWD
cd "$(dirname "$0")/.."

kit=card-kit              # what is carried there
work=/tmp/card-minutes    # there, outside the repository: data, packages, training
results=                  # there: what is carried home; $work/results if empty
python=${PYTHON:-python3}
[[ ${PYTHON:-} || ! -x .venv/bin/python ]] || python=.venv/bin/python
part_mb=47 result_mb=15
longer_side=640 quality=70
data=() have='' coco=''
minutes='' visit_minutes='' reserve='' architecture=fasterrcnn_mobilenet_v2_fpn
extra=()

usage() {
    cat <<'TEXT'
kit      --data ROOT...         data roots, packed into parts
         --have FILE            packages that the machine there has (pip list --format=freeze, or a name a line): wheels
                                of all others that training needs are fetched; without it none are
         --python-version 3.12  of the machine there, for the wheels
         --coco FILE            torchvision's COCO weights, for --architecture fasterrcnn_resnet50_fpn_v2
         --longer-side 640 --quality 70 --part-mb 47
receive  takes in the parts that lie in the kit, and says what is missing
train    --minutes N            in all, from the first call on: reading, training, evaluation and writing
         --visit-minutes N      stop after that, with a checkpoint; the same command goes on
         --reserve N            minutes for what follows training; default: a fifth, at most 3
         --architecture NAME    fasterrcnn_mobilenet_v2_fpn (from weights/starter) or fasterrcnn_resnet50_fpn_v2
         --results FOLDER       where the parts to carry home go, of --result-mb 15 at most
         -- FLAG...             more flags for train.py; they win
all      --kit FOLDER (card-kit)  --work FOLDER (/tmp/card-minutes)
TEXT
}

die() {
    echo "error: $*" >&2
    exit 1
}

# The whole path of $1, which was said where the caller is.
absolute() { (cd "$caller" && realpath -m -- "$1"); }

# Bytes of $1 million.
bytes() { awk -v mb="$1" 'BEGIN { printf "%d", 1e6 * mb }'; }

say() { echo "card: $*" >&2; }

# --- at home ------------------------------------------------------------------------------------------------------

make_kit() {
    ((${#data[@]})) || die "expected --data ROOT..., got none"
    mkdir -p "$kit"
    "$python" dataset.py pack "${data[@]}" --output "$kit/data" --longer-side "$longer_side" --quality "$quality" \
        --part-mb "$part_mb"
    if [[ $have ]]; then fetch_wheels; fi
    if [[ $coco ]]; then
        [[ -f $coco ]] || die "expected COCO weights at $coco, found no file"
        rm -rf "$kit/coco" && mkdir "$kit/coco"
        split --bytes="$(bytes "$part_mb")" --numeric-suffixes --additional-suffix=.part "$coco" "$kit/coco/"
        (cd "$(dirname "$coco")" && sha256sum "$(basename "$coco")") >"$kit/coco/SUM"
    fi
    say "the kit; carry it in as many visits as it takes, with the small SHA256SUMS and SUM each time:"
    du -ah --apparent-size "$kit" | grep -v '/wheels/' >&2
}

# Training needs what train.lock names; not what the machine has, nor readers of phone photos (the kit holds WebP),
# nor the search for duplicates and the API's documentation, which training does not touch.
fetch_wheels() {
    [[ -f $have ]] || die "expected a list of packages at $have, found no file"
    local names
    names=$(
        normal() { sed 's/[ =].*//; s/[-_.]\{1,\}/-/g' | tr '[:upper:]' '[:lower:]'; }
        { normal <"$have"; printf '%s\n' torch torchvision pillow-heif imagehash pywavelets fastapi-offline; } |
            sort -u >"$kit/.have"
        { sed 's/ *#.*//' requirements/train.lock requirements/detecto.txt | grep '=='; } | while read -r line; do
            # What comes with PyTorch's CUDA is of no use to another PyTorch.
            [[ $line == nvidia-[!m]* || $line == cuda-* || $line == triton* ]] && continue
            grep -qxF "$(normal <<<"$line")" "$kit/.have" || echo "$line"
        done
    )
    rm -rf "$kit/wheels" "$kit/.have" && mkdir "$kit/wheels"
    say "fetching $(wc -l <<<"$names") wheels"
    local platforms=() version
    for version in 2014 1 _2_17 _2_24 _2_27 _2_28 _2_31 _2_34 _2_35; do platforms+=(--platform "manylinux${version}_x86_64"); done
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --implementation cp --python-version "$python_version" "${platforms[@]}" \
        --dest "$kit/wheels" -r /dev/stdin <<<"$names"
}

# --- there --------------------------------------------------------------------------------------------------------

# Each file is noted once it is taken in: the same one again, in a second visit, costs nothing.
receive() {
    mkdir -p "$work/got" "$work/data" "$work/coco"
    if [[ -f $kit/data/SHA256SUMS ]]; then cp "$kit/data/SHA256SUMS" "$work/SHA256SUMS"; fi
    local part name
    for part in "$kit"/data/data-*.tar.gz; do
        name=$(basename "$part")
        [[ -f $part && ! -f $work/got/$name ]] || continue
        (cd "$kit/data" && grep "  $name\$" "$work/SHA256SUMS" | sha256sum --check --quiet -) ||
            die "$part did not come whole, or SHA256SUMS is another pack's: carry both again"
        tar xzf "$part" -C "$work/data"
        touch "$work/got/$name"
    done
    if compgen -G "$kit/wheels/*.whl" >/dev/null && [[ ! -f $work/got/wheels ]]; then
        "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile \
            --no-cache-dir --upgrade --target "$work/site" "$kit"/wheels/*.whl
        touch "$work/got/wheels"
    fi
    if compgen -G "$kit/coco/*.part" >/dev/null; then cp "$kit"/coco/* "$work/coco/"; fi
    if [[ -f $work/coco/SUM ]]; then join_coco; fi
    local missing
    missing=$(missing_parts)
    say "${missing:+still missing: $missing}${missing:-all data parts are here}"
}

missing_parts() {
    [[ -f $work/SHA256SUMS ]] || { echo "the data with its SHA256SUMS"; return; }
    local name
    while read -r _ name; do [[ -f $work/got/$name ]] || echo -n "$name "; done <"$work/SHA256SUMS"
}

# Put the weights, once they are whole, where torchvision looks for what it has downloaded before.
join_coco() {
    local folder=$work/torch/hub/checkpoints name
    name=$(cut -c 67- "$work/coco/SUM")
    [[ ! -f $folder/$name ]] || return 0
    mkdir -p "$folder"
    cat "$work"/coco/*.part >"$work/coco/$name"
    if (cd "$work/coco" && sha256sum --check --status SUM); then
        mv "$work/coco/$name" "$folder/"
    else
        say "the COCO weights are not whole yet"
    fi
}

now() { date +%s; }

# Seconds of $1 minutes, whole.
seconds() { awk -v minutes="$1" 'BEGIN { printf "%d", 60 * minutes }'; }

# Flags of train.py for this machine and the time that is left -> $work/plan, a word a line. $1: images a step at most.
make_plan() {
    local left preset=card flags
    left=$(awk -v all="$minutes" -v gone="$(($(now) - $(<"$work/started")))" -v reserve="$reserve" \
        'BEGIN { print all - gone / 60 - reserve }')
    [[ $architecture == fasterrcnn_mobilenet_v2_fpn ]] || preset=best
    flags=$("$python" bench/card_plan.py --preset "$preset" --minutes "$left" --most "$1") || exit 1
    printf '%s\n' --preset "$preset" --minutes-from start "$flags" --epochs 1000 --eval-epochs 8 \
        --checkpoint-minutes 1 --half --device auto --no-register-model --run-name card "${extra[@]}" >"$work/plan"
}

# Run "$@" until it ends or the visit does; its words go to train.log too.
within_visit() {
    local left=$((visit_end - $(now)))
    ((left > 0)) || return 124
    timeout --signal=TERM --kill-after=60 "$left" "$@" 2>&1 | tee -a "$work/out/train.log"
}

train() {
    local most=0 status roots plan resume
    mapfile -t roots < <(find "$work/data" -mindepth 1 -maxdepth 1 -type d | sort)
    [[ -f $work/plan ]] || make_plan "$most"
    while [[ ! -f $work/trained ]]; do
        mapfile -t plan <"$work/plan"
        resume=()
        if [[ -f $work/out/checkpoint.pt ]]; then resume=(--resume); fi
        status=0
        within_visit "$python" train.py --no-export --data "${roots[@]}" --output "$work/out" "${plan[@]}" "${resume[@]}" || status=$?
        if ((status == 0)) && [[ -f $work/out/report/report.json ]]; then
            touch "$work/trained"
        elif ((status == 124 || status == 0)); then
            return 75 # the visit is over
        elif grep -q "out of memory" "$work/out/train.log" && [[ ! -f $work/out/checkpoint.pt ]]; then
            most=$(($(grep -A1 -x -- --batch-size "$work/plan" | tail -1) / 2))
            ((most)) || { say "not even one image a step fits the card's memory"; return 1; }
            say "the card's memory is too small for that: again with $most images a step"
            mv "$work/out/train.log" "$work/out/train.$most.log"
            make_plan "$most"
        else
            say "train.py ended with status $status; its last words are in $work/out/train.log"
            return 1
        fi
    done
    [[ -f $work/evaluated ]] || evaluate "${roots[@]}"
}

evaluate() {
    local status=0
    within_visit "$python" evaluate.py --model "$work/out/best" --data "$@" --device auto \
        --output "$work/out/evaluation" || status=$?
    ((status != 124)) || return 75
    ((status == 0)) || { say "evaluate.py ended with status $status"; return 1; }
    touch "$work/evaluated"
}

# What to carry home, in parts; of a training that goes on, what there is so far.
write_results() {
    local found=() name
    for name in best report evaluation train.log plan mlflow.db; do
        if [[ -e $work/out/$name ]]; then found+=("$name"); fi
    done
    mkdir -p "$results"
    rm -f "$results"/result.tar.gz.?? "$results/SHA256SUMS"
    cp "$work/plan" "$work/out/plan"
    tar czf "$work/result.tar.gz" -C "$work/out" "${found[@]}"
    split --bytes="$(bytes "$result_mb")" --numeric-suffixes "$work/result.tar.gz" "$results/result.tar.gz."
    (cd "$results" && sha256sum result.tar.gz.??) >"$results/SHA256SUMS"
    (cd "$work" && sha256sum result.tar.gz) >>"$results/SHA256SUMS"
    say "results: $(find "$results" -name 'result.tar.gz.??' | wc -l) parts in $results. At home, beside them:"
    echo "cat result.tar.gz.?? > result.tar.gz && sha256sum --check SHA256SUMS && tar xzf result.tar.gz"
}

check_there() {
    local missing
    missing=$(missing_parts)
    [[ -z $missing ]] || die "expected the whole kit, still missing: $missing"
    if [[ $architecture != fasterrcnn_mobilenet_v2_fpn ]] && ! compgen -G "$work/torch/hub/checkpoints/*" >/dev/null; then
        die "expected whole COCO weights for $architecture: make the kit with --coco FILE, and carry all of it"
    fi
}

card_session() {
    [[ $minutes ]] || die "expected --minutes N, got none"
    : "${reserve:=$(awk -v all="$minutes" 'BEGIN { print (all / 5 < 3) ? all / 5 : 3 }')}"
    : "${results:=$work/results}"
    local visit status=0 begun
    begun=$(now)
    visit=$(seconds "${visit_minutes:-1000}")
    visit_end=$((begun + visit))
    receive
    check_there
    mkdir -p "$work/out"
    [[ -f $work/started ]] || echo "$begun" >"$work/started"
    export PYTHONPATH=$work/site${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 TORCH_HOME=$work/torch
    export MLFLOW_TRACKING_URI=sqlite:///$work/out/mlflow.db
    train || status=$?
    write_results # whatever went wrong: what has been learnt comes home
    say "$(($(now) - $(<"$work/started"))) of $(seconds "$minutes") seconds since the first call"
    if ((status == 75)); then say "not done yet: the same command goes on"; fi
    exit "$status"
}

# --- words --------------------------------------------------------------------------------------------------------

command=${1:-}
shift || true
python_version=3.12
while (($#)); do
    flag=$1
    shift
    case $flag in
        --data) while (($#)) && [[ $1 != -* ]]; do data+=("$(absolute "$1")") && shift; done ;;
        --) extra=("$@") && break ;;
        --have | --coco | --kit | --work | --results | --minutes | --visit-minutes | --reserve | --architecture | \
            --longer-side | --quality | --part-mb | --result-mb | --python-version)
            (($#)) || die "expected a value after $flag"
            name=${flag#--} value=$1
            [[ $name =~ ^(have|coco|kit|work|results)$ ]] && value=$(absolute "$1")
            printf -v "${name//-/_}" %s "$value"
            shift
            ;;
        *) usage >&2 && die "unknown flag $flag" ;;
    esac
done

case $command in
    kit) make_kit ;;
    receive) receive ;;
    train) card_session ;;
    -h | --help) usage ;;
    *) usage >&2 && die "expected kit, receive or train, got ${command:-nothing}" ;;
esac
