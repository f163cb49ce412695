# A newcomer's hour: 500 sentences in texts/, 500 questions with answers in qa.csv, and nothing read but the README.

# Four families learn the sentences, and the answers to the questions.
xlm train data.text=texts model_type=arlm
xlm train data.text=texts model_type=mlm
xlm train data.text=texts model_type=mdlm
xlm train data.text=texts model_type=ilm
xlm train data.text=qa.csv data.prompt=question data.answer=answer model_type=arlm
xlm train data.text=qa.csv data.prompt=question data.answer=answer model_type=mlm
xlm train data.text=qa.csv data.prompt=question data.answer=answer model_type=mdlm
xlm train data.text=qa.csv data.prompt=question data.answer=answer model_type=ilm

# What came out.
xlm runs
xlm report texts+arlm texts+mlm texts+mdlm texts+ilm
xlm eval runs/texts+mdlm

# Texts: free ones, gaps, answers; prompts as words and from a pipe.
xlm generate runs/texts+arlm
xlm generate runs/texts+mlm "the old cat ___ the garden"
xlm generate runs/texts+ilm "the old cat ___ the garden"
echo "what is 3 plus 4?" | xlm generate runs/qa+mdlm
xlm trace runs/texts+arlm runs/texts+mlm runs/texts+mdlm runs/texts+ilm

# The same from Python.
python -c 'import xlm; print(xlm.load("runs/texts+arlm").score(["the old cat sleeps in the garden"]))'
