"""Training and scoring of models; needs the extra ``train``.

*For streams*: ``material`` reads data sets by name (``truth`` one's own recordings, ``splice``
makes streams of isolated gestures); ``streams`` are what is learnt from, ``draw`` and ``augment``
show it to ``online``, the training loops; ``validate`` runs the decoder over scored recordings and
chooses its settings; ``recipe`` is the way from a data set to a model file, ``adapt`` from a model
to another. ``online_evaluate`` judges a model file, by the scores of ``metrics``, and
``thresholds`` tunes it.

*Whole gestures*: ``isolated`` is the training loop, on ``batches`` and ``distort``, with the
networks and settings of ``isolated_recipe``; ``runs`` is its folder and the model file made of it;
``evaluate`` judges.

*Of both*: ``learnt`` keeps anybody from judging a model on what it has learnt from; ``intervals``
are those of all figures.
"""
