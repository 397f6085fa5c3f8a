"""DeepJudge (Chen et al., IEEE S&P 2022): black-box and white-box metrics, and their vote."""
