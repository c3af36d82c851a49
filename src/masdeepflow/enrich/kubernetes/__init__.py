"""Pods, Services and their owners: from the API server or the kubelet (`cluster`), kept and asked (`index`).

`index` stands on its own. All else needs the extra `kubernetes` and is imported only when it is used.
"""
