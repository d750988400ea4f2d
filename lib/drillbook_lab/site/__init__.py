"""The lab's sites: what `lab up` builds. A site is data; the code here knows no name of any of them."""
