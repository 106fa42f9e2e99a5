"""The commands that are installed: acmix-train, acmix-eval, acmix-export, acmix-predict; in a checkout train.py, ...

Commands put nets and toolbox together: of acmix_ms they alone import `acmix_ms.models`.
"""
