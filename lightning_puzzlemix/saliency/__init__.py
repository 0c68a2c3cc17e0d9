"""Where the model looks: the sources of saliency, and leaving the model as found."""
