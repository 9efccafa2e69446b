# The `llm` command-line tool against a server: a prompt, without streaming, a conversation, a completion model.
#     sh ask_llm.sh ADDRESS FOLDER-OF-THE-TOOL FOLDER-FOR-ITS-FILES
set -eu
export LLM_USER_PATH="$3"
mkdir -p "$3"
cat > "$3/extra-openai-models.yaml" <<YAML
- model_id: chat
  model_name: base
  api_base: "$1/v1"
- model_id: text
  model_name: base
  api_base: "$1/v1"
  completion: true
YAML
llm="$2/bin/llm"
"$llm" -m chat -o temperature 0 -o max_tokens 8 'Hi' < /dev/null
echo "@@@"
"$llm" -m chat -o temperature 0 -o max_tokens 8 --no-stream -s 'be brief' 'Hi' < /dev/null
echo "@@@"
"$llm" -c -o temperature 0 -o max_tokens 8 'Again?' < /dev/null
echo "@@@"
"$llm" -m text -o temperature 0 -o max_tokens 8 'name : Blue' < /dev/null
