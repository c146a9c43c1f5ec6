"""Training and scoring of models; needs the extra ``train``.

``streams`` (recordings as material) and ``augment`` (distortions) feed ``online`` (the training
loops); ``validate`` runs the decoder over scored recordings and chooses its settings; ``metrics``
scores; ``recipe`` is the way from a data set to a model file.
"""
