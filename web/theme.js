// Sets the theme that was chosen before anything is drawn: a module would come too late, and the page would flash.
'use strict';
try {
    const theme = localStorage.getItem('theme');
    if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
} catch { /* storage may be forbidden: the system's theme then */ }
