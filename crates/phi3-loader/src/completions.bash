# Completion of phi3-loader for bash 4.3 or later.
_phi3_loader() {
    local line=${COMP_LINE:0:COMP_POINT} breaks=${COMP_WORDBREAKS//[!:=]/} words word
    # The words as the program would get them: bash has split COMP_WORDS at `:` and `=`.
    read -a words <<<"$line"
    if [[ $line == *[[:space:]] && $line != *\\[[:space:]] ]]; then
        words+=("")
    fi
    word=${words[-1]}
    mapfile -t COMPREPLY < <(PHI3_LOADER_COMPLETE=bash "$1" -- "${words[@]}" 2>/dev/null)
    # Bash itself adds the slash of a folder.
    if [[ -e ${COMPREPLY/#\~\//$HOME/} ]]; then
        compopt -o filenames
        COMPREPLY=("${COMPREPLY[@]%/}")
    fi
    # Bash replaces only the piece after the last of these characters.
    if [[ $breaks && $word == *[$breaks]* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${word%"${word##*[$breaks]}"}"}")
    fi
}
complete -o bashdefault -F _phi3_loader phi3-loader
